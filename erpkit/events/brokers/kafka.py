"""Kafka: a topic an event type, keyed by tenant, so that each tenant's events keep their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faststream import AckPolicy
from faststream.kafka import KafkaBroker as Client

from erpkit.events.brokers.broker import Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import headers_of
from erpkit.events.message import Message

__all__ = ["KafkaBroker"]


class KafkaBroker(StreamBroker):
    """Topics `erp.<module>.<Event>`; acknowledged by all replicas, and by an idempotent producer.

    Topics that are missing are left to the server to make, if it does that.
    """

    scheme = "kafka"

    def _client(self, *, consumer: bool) -> Any:  # noqa: ARG002
        return Client(
            self.url.partition("://")[2].rstrip("/").split(","),
            enable_idempotence=True,
            request_timeout_ms=int(self.acknowledge_within * 1000),
            apply_types=False,
            logger=None,
            graceful_timeout=None,
        )

    async def _declare(self, client: Any, groups: Sequence[tuple[str, str]]) -> None:
        """Do nothing: Kafka keeps what nobody has read yet."""

    async def _send(self, client: Any, tenant: str, message: Message) -> None:
        await client.publish(
            message.payload,
            f"erp.{message.topic}",
            key=tenant.encode(),
            headers=headers_of(tenant, message),
            correlation_id=message.correlation_id,
        )

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        return [
            client.subscriber(
                f"erp.{subscription.topic}",
                group_id=subscription.group,
                auto_offset_reset="earliest",
                session_timeout_ms=int(self.redeliver_after * 1000),
                batch=True,
                max_records=BATCH,
                ack_policy=AckPolicy.MANUAL,
                decoder=as_it_is,
            )
        ]
