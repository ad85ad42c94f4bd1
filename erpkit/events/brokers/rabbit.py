"""RabbitMQ: a topic exchange, and a quorum queue a handler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitExchange, RabbitQueue
from faststream.rabbit import RabbitBroker as Client

from erpkit.events.brokers.broker import IN_ORDER, Route, Subscription, queue_of
from erpkit.events.brokers.streams import BATCH, StreamBroker, as_it_is
from erpkit.events.brokers.wire import JSON, MARK, body_of, headers_of, message_id
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message
from erpkit.plural import count_of

_HEADERS = 120_000  # bytes; with what is around them a frame takes 131,072
_EXCHANGE = RabbitExchange("erp", type=ExchangeType.TOPIC, durable=True)


class RabbitBroker(StreamBroker):
    """Exchange `erp`, routing keys `erp.<tenant>.<module>.<Event>`; queues are named as their handlers.

    RabbitMQ keeps nothing for a queue that is not there yet: `declare` must come before what it is to see. Each message is sent
    once the one before it is confirmed, at about half the rate of many at once: a queue that is full refuses one message and the
    next ones find room, or go to other queues, and nothing in AMQP lets a message depend on the one before it.
    """

    scheme = "amqp"
    subject = "erp.{tenant}.{topic}"
    order = f"{IN_ORDER}as it comes, a redelivery late; after a fault other queues may get an event twice"

    def _client(self, *, consumer: bool) -> Any:  # noqa: ARG002
        return Client(
            self.url,
            timeout=self.acknowledge_within,
            default_channel=Channel(prefetch_count=BATCH, on_return_raises=True),
            apply_types=False,
            logger=None,
            graceful_timeout=None,
        )

    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:  # noqa: ARG002
        exchange = await client.declare_exchange(_EXCHANGE)
        for group in groups:
            for topic in group.topics:
                wanted = self._queue(queue_of(group, topic), topic)
                queue = await client.declare_queue(wanted)
                await queue.bind(exchange, wanted.routing_key)

    async def _send(self, client: Any, tenant: str, message: Message, route: Route) -> bool:
        headers = headers_of(tenant, message, route)
        if (size := sum(len(f"{key}{value}".encode()) for key, value in headers.items())) > _HEADERS:
            raise ValueError(
                f"headers of {count_of(size, 'byte')} fit no frame"
            )  # the server would close the connection
        await client.publish(
            body_of(message),
            exchange=_EXCHANGE,
            content_type=JSON,
            routing_key=self._published_as(tenant, message, route),
            mandatory=not route.is_live,  # an event that no handler waits for is no fault; one replayed to nobody is
            persist=True,
            headers=headers,
            message_id=message_id(message, route),
            correlation_id=message.correlation_id,
            timeout=self.acknowledge_within,
        )
        return False

    async def _refusal(self, client: Any, error: BaseException) -> str:
        """RabbitMQ closes the channel on a message over its max_message_size, and says both sizes."""
        return str(error) if isinstance(error, ChannelPreconditionFailed) else await super()._refusal(client, error)

    async def _has_mark(self, client: Any) -> bool:
        try:
            await client.declare_exchange(RabbitExchange(MARK, durable=True, declare=False))
        except ChannelNotFoundEntity:
            await self._drop_publisher()  # the server has closed the channel
            return False
        return True

    async def _leave_mark(self, client: Any) -> None:
        await client.declare_exchange(RabbitExchange(MARK, durable=True))

    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        queue = self._queue(subscription.group, subscription.topic)
        return [client.subscriber(queue, _EXCHANGE, ack_policy=AckPolicy.MANUAL, decoder=as_it_is)]

    def _queue(self, group: str, topic: str) -> RabbitQueue:
        return RabbitQueue(group, queue_type=QueueType.QUORUM, durable=True, routing_key=self.naming.wildcard(topic))

    def _name(self, raw: Any) -> str:
        return str(raw.routing_key)
