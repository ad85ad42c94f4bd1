"""Kafka: a topic an event type, keyed by tenant, so that each tenant's events keep their order."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

from aiokafka.errors import InvalidTopicError, MessageSizeTooLargeError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker as Client
from faststream.security import BaseSecurity, SASLPlaintext

from erpkit.events.brokers.broker import IN_ORDER, Route, Subscription
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import JSON, MARK, body_of, headers_of
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

_LOOK_FOR_TOPICS = 10  # seconds until a topic that was made meanwhile is read, where a pattern names the tenant
_MOST = 1_048_576  # bytes of a request; Kafka's own default for what a topic takes


class KafkaBroker(StreamBroker):
    """Topics `erp.<module>.<Event>`; acknowledged by all replicas, and by an idempotent producer.

    Topics that are missing are left to the server to make, if it does that. `kafka://user:password@host` logs in by SASL's
    PLAIN; `?tls` encrypts the connection.
    """

    scheme = "kafka"
    subject = "erp.{topic}"
    order = f"{IN_ORDER}by event type and tenant, whose key they must have; other consumers see no order between event types"

    def _client(self, *, consumer: bool) -> Any:  # noqa: ARG002
        login, _, rest = self.url.partition("://")[2].rpartition("@")
        places, _, options = rest.partition("?")
        return Client(
            places.rstrip("/").split(","),
            security=_security(login, use_tls=options == "tls"),
            enable_idempotence=True,
            max_request_size=_MOST,
            metadata_max_age_ms=_LOOK_FOR_TOPICS * 1000,
            request_timeout_ms=int(self.acknowledge_within * 1000),
            apply_types=False,
            logger=None,
            graceful_timeout=None,
        )

    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:
        """Do nothing: Kafka keeps what nobody has read yet."""

    async def _send(self, client: Any, tenant: str, message: Message, route: Route) -> bool:
        await (await self._enqueue(client, tenant, message, route))
        return False

    async def _send_all(
        self, client: Any, tenant: str, messages: Sequence[Message], route: Route
    ) -> list[bool | BaseException]:
        """Enqueue in order, up to one that cannot be, and wait for all: an idempotent producer's messages overtake none that failed."""
        sending: list[Awaitable[Any]] = []
        fault: list[BaseException] = []
        for message in messages:
            try:
                sending.append(await self._enqueue(client, tenant, message, route))
            except Exception as error:
                fault.append(error)
                break
        results = await asyncio.gather(
            *(asyncio.wait_for(each, self.acknowledge_within) for each in sending), return_exceptions=True
        )
        done = [False for _ in takewhile(lambda result: not isinstance(result, BaseException), results)]
        return [*done, *[*results[len(done) :], *fault][:1]]

    async def _enqueue(self, client: Any, tenant: str, message: Message, route: Route) -> Any:
        return await client.publish(
            body_of(message),
            self._published_as(tenant, message, route),
            key=tenant.encode(),
            headers={**headers_of(tenant, message, route), "content-type": JSON},
            correlation_id=message.correlation_id,
            no_confirm=True,
        )

    async def _refusal(self, client: Any, error: BaseException) -> str:
        if isinstance(error, MessageSizeTooLargeError):
            return f"the producer takes {_MOST:,} bytes, and the topic what its max.message.bytes says"
        return (
            "it makes no topic's name"
            if isinstance(error, InvalidTopicError)
            else await super()._refusal(client, error)
        )

    async def _has_mark(self, client: Any) -> bool:
        cluster = await client._producer._producer.producer.client.fetch_all_metadata()
        return MARK in cluster.topics()

    async def _leave_mark(self, client: Any) -> None:
        await client.publish(b"a forwarder was here", MARK)

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        """Read one topic, or all that the pattern fits, as far as they exist or are made later."""
        topic, is_one = subscription.topic, self.naming.is_one
        names = [self.naming.name("", topic, "")] if is_one else []
        pattern: dict[str, Any] = {} if is_one else {"pattern": self.naming.regex(topic)}
        return [
            client.subscriber(
                *names,
                **pattern,
                group_id=subscription.group,
                auto_offset_reset="earliest",
                session_timeout_ms=int(self.redeliver_after * 1000),
                batch=True,
                max_records=BATCH,
                ack_policy=AckPolicy.MANUAL,
                parser=_with_readable_headers,
                decoder=as_it_is,
            )
        ]

    def _published_as(self, tenant: str, message: Message, route: Route) -> str:
        return super()._published_as(tenant, message, route) if route.is_live else f"{route.subject}.{message.topic}"

    def _name(self, raw: Any) -> str:
        return str(raw.topic)


async def _with_readable_headers(records: Any, parse: Any) -> Any:
    """Let FastStream parse a batch in which a header may be null or no text: it would refuse all of it again and again."""
    return await parse(
        tuple(
            replace(
                each,
                headers=tuple((key, (value or b"").decode(errors="replace").encode()) for key, value in each.headers),
            )
            for each in records
        )
    )


def _security(login: str, *, use_tls: bool) -> BaseSecurity:
    context = ssl.create_default_context() if use_tls else None
    if not login:
        return BaseSecurity(ssl_context=context)
    user, _, password = login.partition(":")
    return SASLPlaintext(username=unquote(user), password=unquote(password), ssl_context=context)
