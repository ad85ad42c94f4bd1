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

from erpkit.events.brokers.broker import Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import STREAM, headers_of, subject_of
from erpkit.events.message import Message

__all__ = ["NatsBroker"]

DUPLICATE_WINDOW = 3600  # seconds in which JetStream drops a second message with the same id
_FETCH_FOR = 1.0  # seconds until the server is asked anew when nothing comes


class NatsBroker(StreamBroker):
    """JetStream: stream `ERP` with the subjects `erp.<tenant>.<module>.<Event>`.

    The stream is made when it is missing, with no limit on its size; one that exists is used as it is.
    """

    scheme = "nats"

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

    async def _declare(self, client: Any, groups: Sequence[tuple[str, str]]) -> None:  # noqa: ARG002
        jetstream = client.connection.jetstream()
        try:
            await jetstream.stream_info(STREAM)
        except NotFoundError:
            wanted = StreamConfig(name=STREAM, subjects=["erp.>"], duplicate_window=DUPLICATE_WINDOW)
            try:
                await jetstream.add_stream(wanted)
            except BadRequestError:  # somebody else was quicker, or it cannot be
                await jetstream.stream_info(STREAM)

    async def _send(self, client: Any, tenant: str, message: Message) -> None:
        await client.publish(
            message.payload,
            subject_of(tenant, message.topic),
            headers=headers_of(tenant, message),
            correlation_id=message.correlation_id,
            stream=STREAM,
            timeout=self.acknowledge_within,
        )

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
