"""NATS JetStream: one stream, a durable consumer a handler, duplicates dropped by the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faststream import AckPolicy
from faststream.nats import JStream, PullSub
from faststream.nats import NatsBroker as Client
from nats.js.api import AckPolicy as Acknowledge
from nats.js.api import ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import BadRequestError, NotFoundError

from erpkit.events.brokers.broker import LIVE, Route, Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import STREAM, headers_of, subject_of
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

DUPLICATE_WINDOW = 3600  # seconds in which JetStream drops a second message with the same id
_FETCH_FOR = 1.0  # seconds until the server is asked anew when nothing comes


class NatsBroker(StreamBroker):
    """JetStream: stream `ERP` with the subjects `erp.<tenant>.<module>.<Event>`.

    The stream is made when it is missing, with no limit on its size; one that exists is used as it is. So it is with the
    stream of another subject that events are replayed to: `AUDIT` for `audit`, unless some stream takes it already.
    """

    scheme = "nats"

    def __init__(self, url: str, *, acknowledge_within: float = 10, redeliver_after: float = 30) -> None:
        super().__init__(url, acknowledge_within=acknowledge_within, redeliver_after=redeliver_after)
        self._streams = {LIVE.subject: STREAM}  # by subject

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
        name, subjects = self._stream(route), f"{route.subject}.>"
        try:
            if not route.is_live:
                name = await jetstream.find_stream_name_by_subject(subjects)
            await jetstream.stream_info(name)
        except NotFoundError:
            wanted = StreamConfig(name=name, subjects=[subjects], duplicate_window=DUPLICATE_WINDOW)
            try:
                await jetstream.add_stream(wanted)
            except BadRequestError:  # somebody else was quicker, or it cannot be
                await jetstream.stream_info(name)
        self._streams[route.subject] = name

    async def _send(self, client: Any, tenant: str, message: Message, route: Route) -> bool:
        acknowledged = await client.publish(
            message.payload,
            subject_of(tenant, message.topic, route),
            headers=headers_of(tenant, message, route),
            correlation_id=message.correlation_id,
            stream=self._stream(route),
            timeout=self.acknowledge_within,
        )
        return bool(acknowledged.duplicate)

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        wanted = ConsumerConfig(ack_policy=Acknowledge.EXPLICIT, ack_wait=self.redeliver_after)
        return [
            client.subscriber(
                subject_of("*", subscription.topic),
                stream=JStream(STREAM, declare=False),
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

    def _stream(self, route: Route) -> str:
        return self._streams.get(route.subject, route.subject.upper().replace(".", "-"))
