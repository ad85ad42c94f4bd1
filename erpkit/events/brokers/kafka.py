"""Kafka: a topic an event type, keyed by tenant, so that each tenant's events keep their order."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from faststream import AckPolicy
from faststream.kafka import KafkaBroker as Client
from faststream.security import BaseSecurity, SASLPlaintext

from erpkit.events.brokers.broker import Route, Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import headers_of
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message


class KafkaBroker(StreamBroker):
    """Topics `erp.<module>.<Event>`; acknowledged by all replicas, and by an idempotent producer.

    Topics that are missing are left to the server to make, if it does that. `kafka://user:password@host` logs in by SASL's
    PLAIN; `?tls` encrypts the connection.
    """

    scheme = "kafka"

    def _client(self, *, consumer: bool) -> Any:  # noqa: ARG002
        login, _, rest = self.url.partition("://")[2].rpartition("@")
        places, _, options = rest.partition("?")
        return Client(
            places.rstrip("/").split(","),
            security=_security(login, use_tls=options == "tls"),
            enable_idempotence=True,
            request_timeout_ms=int(self.acknowledge_within * 1000),
            apply_types=False,
            logger=None,
            graceful_timeout=None,
        )

    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:
        """Do nothing: Kafka keeps what nobody has read yet."""

    async def _send(self, client: Any, tenant: str, message: Message, route: Route) -> bool:
        await client.publish(
            message.payload,
            f"{route.subject}.{message.topic}",
            key=tenant.encode(),
            headers=headers_of(tenant, message, route),
            correlation_id=message.correlation_id,
        )
        return False

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


def _security(login: str, *, use_tls: bool) -> BaseSecurity:
    context = ssl.create_default_context() if use_tls else None
    if not login:
        return BaseSecurity(ssl_context=context)
    user, _, password = login.partition(":")
    return SASLPlaintext(username=unquote(user), password=unquote(password), ssl_context=context)
