"""Redis streams: one an event type, a consumer group a handler."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from faststream import AckPolicy
from faststream.redis import RedisBroker as Client
from faststream.redis import StreamSub
from redis.exceptions import ResponseError

from erpkit.errors import UsageError
from erpkit.events.brokers.broker import IN_ORDER, Route, Subscription, queue_of
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import JSON, MARK, body_of, headers_of
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

_STREAMS = (b"stream", b"none", "stream", "none")  # the type of a key that can be added to

_WRONG_TYPE = "WRONGTYPE the key holds another kind of value"


class RedisBroker(StreamBroker):
    """Streams `erp.<module>.<Event>`, which grow until an operator trims them.

    What Redis acknowledged survives its crash as far as its own persistence goes: set `appendonly yes`.
    """

    scheme = "redis"
    subject = "erp.{topic}"
    order = f"{IN_ORDER}as it comes, by event type, a redelivery late; after a fault the stream may have an event twice"

    def __init__(
        self, url: str, *, acknowledge_within: float = 10, redeliver_after: float = 30, subject: str = ""
    ) -> None:
        super().__init__(url, acknowledge_within=acknowledge_within, redeliver_after=redeliver_after, subject=subject)
        if not self.naming.is_one:
            raise UsageError(
                f"ERPKIT_BROKER_SUBJECT is {subject!r}: Redis reads whole streams: leave out {{tenant}} and {{uuid}}"
            )

    def _client(self, *, consumer: bool) -> Any:
        timeout = None if consumer else self.acknowledge_within
        silent: Any = None
        return Client(self.url, socket_timeout=timeout, apply_types=False, logger=silent, graceful_timeout=None)

    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:  # noqa: ARG002
        """Make each group at the beginning of its stream: a new one would see only what comes after it."""
        redis = await client.connect()
        for group in groups:
            for topic in group.topics:
                with suppress(ResponseError):  # it is there already
                    await redis.xgroup_create(
                        self.naming.name("", topic, ""), queue_of(group, topic), id="0", mkstream=True
                    )

    async def _send(self, client: Any, tenant: str, message: Message, route: Route, pipeline: Any = None) -> bool:
        await client.publish(
            body_of(message),
            stream=self._published_as(tenant, message, route),
            headers=_counted_in_bytes({**headers_of(tenant, message, route), "content-type": JSON}),
            correlation_id=message.correlation_id,
            pipeline=pipeline,
        )
        return False

    async def _send_all(
        self, client: Any, tenant: str, messages: Sequence[Message], route: Route
    ) -> list[bool | BaseException]:
        """Send all in one transaction of Redis, up to one that cannot be written or whose key holds no stream: it alone would fail."""
        redis = await client.connect()
        names = {self._published_as(tenant, message, route) for message in messages}
        fault: list[BaseException] = []
        try:
            taken = {name for name in names if await redis.type(name) not in _STREAMS}
            async with redis.pipeline(transaction=True) as pipeline:
                for message in messages:
                    try:
                        if self._published_as(tenant, message, route) in taken:
                            raise ResponseError(_WRONG_TYPE)
                        await self._send(client, tenant, message, route, pipeline)
                    except Exception as error:
                        fault.append(error)
                        break
                sent = await asyncio.wait_for(pipeline.execute(), self.acknowledge_within)
        except Exception as error:
            return [error]
        return [*(False for _ in sent), *fault]

    async def _refusal(self, client: Any, error: BaseException) -> str:
        """A key of that name that holds no stream is in the way until somebody removes it."""
        is_in_the_way = isinstance(error, ResponseError) and str(error).startswith(_WRONG_TYPE[:9])
        return f"the key is no stream ({error})" if is_in_the_way else await super()._refusal(client, error)

    async def _has_mark(self, client: Any) -> bool:
        return bool(await (await client.connect()).exists(MARK))

    async def _leave_mark(self, client: Any) -> None:
        await (await client.connect()).set(MARK, "a forwarder was here: without this key, what it forwarded is gone")

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        """Read what is new, and claim what a consumer that died, or failed, has left unacknowledged."""
        consumer = f"{socket.gethostname()}-{os.getpid()}"
        stream = self.naming.name("", subscription.topic, "")
        return [
            client.subscriber(stream=each, ack_policy=AckPolicy.MANUAL, decoder=as_it_is)
            for each in (
                StreamSub(stream, group=subscription.group, consumer=consumer, max_records=BATCH),
                StreamSub(
                    stream, group=subscription.group, consumer=consumer, min_idle_time=int(self.redeliver_after * 1000)
                ),
            )
        ]

    def _published_as(self, tenant: str, message: Message, route: Route) -> str:
        return super()._published_as(tenant, message, route) if route.is_live else f"{route.subject}.{message.topic}"

    def _name(self, raw: Any) -> str:
        return str(raw["channel"])


def _counted_in_bytes(headers: Mapping[str, str]) -> dict[str | bytes, str | bytes]:
    """Return the headers, as bytes where they are not ASCII: FastStream counts a string's characters, and reads as many bytes."""
    return {_bytes_of(key): _bytes_of(value) for key, value in headers.items()}


def _bytes_of(text: str) -> str | bytes:
    return text if text.isascii() else text.encode()
