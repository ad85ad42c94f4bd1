"""NATS JetStream: one stream, a durable consumer a handler, duplicates dropped by the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from faststream import AckPolicy
from faststream.nats import JStream, PullSub
from faststream.nats import NatsBroker as Client
from nats.errors import BadHeaderError, BadSubjectError, MaxPayloadError
from nats.js.api import AckPolicy as Acknowledge
from nats.js.api import ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamConfig, StreamInfo
from nats.js.errors import APIError, BadRequestError, NotFoundError

from erpkit.events.brokers.broker import IN_ORDER, LIVE, Route, Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import (
    EXPECTED_LAST,
    JSON,
    MARK,
    MESSAGE_ID,
    STREAM,
    body_of,
    headers_of,
    message_id,
    size_of,
)
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message
from erpkit.plural import count_of

DUPLICATE_WINDOW = 3600  # seconds in which JetStream drops a second message with the same id
_TOO_LARGE, _HEADERS_TOO_LARGE = (
    10054,
    10097,
)  # JetStream's errors for a message over the stream's max_msg_size, and over 64 KiB
_LONGEST_NAME = 3900  # bytes, as the server reads 4096 up to the end of the line that has the name
_MARK = MARK.replace(".", "-")  # a stream's name may not hold a dot
_GONE = ", gone: "  # in the mark, between the time at which the stream was made and how many messages it lacked
_FETCH_FOR = 1.0  # seconds until the server is asked anew when nothing comes


class NatsBroker(StreamBroker):
    """JetStream: stream `ERP` with the subjects `erp.<tenant>.<module>.<Event>`.

    The stream is made when it is missing, with no limit on its size; one that exists is used as it is. So it is with the
    stream of another subject that events are replayed to: `AUDIT` for `audit`, unless some stream takes it already.
    """

    scheme = "nats"
    subject = "erp.{tenant}.{topic}"
    order = f"{IN_ORDER}as it comes, a redelivery late; the stream has each event once within its duplicate window"

    def __init__(
        self, url: str, *, acknowledge_within: float = 10, redeliver_after: float = 30, subject: str = ""
    ) -> None:
        super().__init__(url, acknowledge_within=acknowledge_within, redeliver_after=redeliver_after, subject=subject)
        self._streams = {LIVE.subject: STREAM}  # by subject
        self._gone = 0  # messages that the live stream lacked when the mark was left

    def _client(self, *, consumer: bool) -> Any:
        scheme, _, places = self.url.partition("://")
        return Client(
            [f"{scheme}://{place}" for place in places.split(",")],
            allow_reconnect=consumer,
            max_reconnect_attempts=-1 if consumer else 1,
            reconnect_time_wait=1 if consumer else 0,
            connect_timeout=5,
            apply_types=False,
            logger=None,
            graceful_timeout=None,
        )

    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:  # noqa: ARG002
        jetstream = client.connection.jetstream()
        is_usual = route.is_live and self.naming.pattern == self.subject
        name, subjects = self._stream(route), f"{route.subject}.>"
        if route.is_live and not is_usual:
            subjects = self.naming.wildcard()
        try:
            if not is_usual:
                name = await jetstream.find_stream_name_by_subject(subjects)
            await jetstream.stream_info(name)
        except NotFoundError:
            wanted = StreamConfig(name=name, subjects=[subjects], duplicate_window=DUPLICATE_WINDOW)
            try:
                await jetstream.add_stream(wanted)
            except BadRequestError:  # somebody else was quicker, or it cannot be
                await jetstream.stream_info(name)
        self._streams[route.subject] = name

    async def _send(
        self, client: Any, tenant: str, message: Message, route: Route, before: Message | None = None
    ) -> bool:
        """Publish a message; with `before`, JetStream takes it only right behind that one."""
        expected, own_id = {EXPECTED_LAST: self._id(before, route)} if before else {}, self._id(message, route)
        headers = {**headers_of(tenant, message, route), **expected, MESSAGE_ID: own_id, "content-type": JSON}
        more = len(str(expected)) + len(own_id) - len(message_id(message, route))
        name = self._published_as(tenant, message, route)
        if "" in name.split(".") or len(name.encode()) > _LONGEST_NAME:
            raise BadSubjectError  # the server would not answer, or close the connection
        if size_of(tenant, message, route) + more > client.connection.max_payload:
            raise MaxPayloadError  # the server would close the connection, as the library counts no headers
        acknowledged = await client.publish(
            body_of(message),
            name,
            headers=headers,
            correlation_id=message.correlation_id,
            stream=self._stream(route),
            timeout=self.acknowledge_within,
        )
        return bool(acknowledged.duplicate)

    async def _send_all(
        self, client: Any, tenant: str, messages: Sequence[Message], route: Route
    ) -> list[bool | BaseException]:
        """Send all at once, each to be stored right behind the one before it; go on one by one where somebody came between."""
        pairs = zip(messages, [None, *messages[:-1]], strict=True)
        sending = (self._send(client, tenant, message, route, before) for message, before in pairs)
        results = await asyncio.gather(
            *(asyncio.wait_for(each, self.acknowledge_within) for each in sending), return_exceptions=True
        )
        done = list(takewhile(lambda result: not isinstance(result, BaseException), results))
        rest = results[len(done) :]
        if rest and not isinstance(rest[0], APIError | MaxPayloadError):
            return [*done, rest[0]]
        return [*done, *await super()._send_all(client, tenant, messages[len(done) :], route)]

    async def _refusal(self, client: Any, error: BaseException) -> str:
        if isinstance(error, MaxPayloadError):
            return f"the server takes {count_of(client.connection.max_payload, 'byte')} (max_payload)"
        if isinstance(error, APIError) and error.err_code == _HEADERS_TOO_LARGE:
            return str(error.description)
        if isinstance(error, APIError) and error.err_code == _TOO_LARGE:
            info = await client.connection.jetstream().stream_info(self._stream(LIVE))
            return f"the stream {info.config.name} takes {count_of(info.config.max_msg_size, 'byte')} (max_msg_size)"
        is_unfit = isinstance(error, BadSubjectError | BadHeaderError)
        return self._reason(error) if is_unfit else await super()._refusal(client, error)

    async def _has_mark(self, client: Any) -> bool:
        """Tell whether the mark names the stream as it is: one that was deleted and made anew was made at another time.

        One that was purged lacks more messages than it did. Where its own limits remove old messages, only one that lacks all is
        taken for purged; where it keeps them for some time alone, or for its consumers, that is not noticed.
        """
        jetstream = client.connection.jetstream()
        try:
            mark = await jetstream.stream_info(_MARK)
        except NotFoundError:
            return False
        created, _, gone = str(mark.config.description).partition(_GONE)
        now, self._gone = await jetstream.stream_info(self._stream(LIVE)), int(gone or 0)
        return created == str(now.created) and not _is_purged(now, self._gone)

    async def _leave_mark(self, client: Any) -> None:
        jetstream = client.connection.jetstream()
        with suppress(NotFoundError):
            await jetstream.delete_stream(_MARK)
        now = await jetstream.stream_info(self._stream(LIVE))
        self._gone = _count_gone(now)
        await jetstream.add_stream(
            StreamConfig(name=_MARK, subjects=[MARK], description=f"{now.created}{_GONE}{self._gone}")
        )

    def _id(self, message: Message, route: Route) -> str:
        """Return the message's id; after a purge another one, as JetStream remembers the ids of what it has no more."""
        usual = message_id(message, route)
        return f"{usual}/{self._gone}" if self._gone and route.is_live else usual

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        wanted = ConsumerConfig(ack_policy=Acknowledge.EXPLICIT, ack_wait=self.redeliver_after)
        return [
            client.subscriber(
                self.naming.wildcard(subscription.topic),
                stream=JStream(self._stream(LIVE), declare=False),
                durable=subscription.group.replace(".", "-"),  # a consumer's name may not hold a dot
                config=wanted,
                deliver_policy=DeliverPolicy.ALL,
                pull_sub=PullSub(
                    batch_size=BATCH, timeout=_FETCH_FOR
                ),  # batch=True may lose what it holds until redelivery
                ack_policy=AckPolicy.MANUAL,
                decoder=as_it_is,
            )
        ]

    async def _is_lost(self, client: Any) -> bool:
        """Ask for the durable consumers, as a fetch from one that is gone only times out."""
        if await super()._is_lost(client):
            return True
        try:
            for subscriber in client.subscribers:
                await subscriber.subscription.consumer_info()
        except NotFoundError:
            return True
        return False

    def _name(self, raw: Any) -> str:
        return str(raw.subject)

    def _stream(self, route: Route) -> str:
        return self._streams.get(route.subject, route.subject.upper().replace(".", "-"))


def _count_gone(info: StreamInfo) -> int:
    """Return how many messages the stream had and has no more."""
    return info.state.last_seq - info.state.messages


def _is_purged(info: StreamInfo, gone: int) -> bool:
    """Tell whether messages were removed, beyond `gone` and what the stream's own limits remove."""
    config, state = info.config, info.state
    if config.max_age or config.retention not in (None, RetentionPolicy.LIMITS):
        return False
    limits = (config.max_msgs, config.max_bytes, config.max_msgs_per_subject)
    is_limited = any(limit is not None and limit > 0 for limit in limits)
    return _count_gone(info) > gone and (not is_limited or state.messages == 0)
