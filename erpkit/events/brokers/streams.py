"""What all brokers behind FastStream have in common: an event loop in a thread, publishing, and consuming with late acknowledgement.

FastStream is asynchronous; handlers and the database are not. So the loop runs in a thread of its own, and handlers in others.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, ClassVar
from urllib.parse import unquote
from uuid import UUID

import anyio
import anyio.from_thread
import anyio.to_thread

from erpkit.config import mask_url
from erpkit.errors import BrokerError
from erpkit.events.brokers.broker import LIVE, Delivery, Route, Subscription
from erpkit.events.brokers.wire import MalformedError, from_wire
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message
from erpkit.plural import count_of

BATCH = 100  # messages handed over at a time, where the broker can
_HANDLERS_AT_ONCE = 4  # of the pool's eight connections
_PAUSE = 1.0  # seconds before what failed is asked for again
_CLOSE_WITHIN = 2.0  # seconds

_LOUD = ("aio_pika", "aiokafka", "aiormq", "faststream", "nats", "redis")

_log = logging.getLogger("erpkit.brokers")


class StreamBroker(ABC):
    """A broker through FastStream.

    `acknowledge_within` is how many seconds the broker waits for the acknowledgement of what it was given; `redeliver_after`
    how many pass until a consumer that fell silent is taken for dead and its messages are delivered to another.
    """

    scheme: ClassVar[str]

    def __init__(self, url: str, *, acknowledge_within: float = 10, redeliver_after: float = 30) -> None:
        self.url = url
        self.name = mask_url(url)
        self.acknowledge_within = acknowledge_within
        self.redeliver_after = redeliver_after
        self._publisher: Any = None
        for library in _LOUD:  # what they tell is in the errors, and without a handler Python would print it
            logging.getLogger(library).addHandler(logging.NullHandler())
        self._portal = _start_loop()

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Publish in this order and return once all are acknowledged; raises BrokerError if some may not be.

        Return the uuids of those that it had already, by their message id, and dropped.
        A connection on which anything failed is given up: what it still held might overtake what is sent again.
        """
        known: set[UUID] = self._call(self._publish_all, tenant, messages, route)
        return known

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:
        """Make sure that what is published from now on is kept: for these groups, and on this route."""
        self._call(self._declare_all, groups, route)

    @contextmanager
    def consuming(self, subscriptions: Sequence[Subscription]) -> Iterator[None]:
        """Deliver to `subscriptions` while the block runs; a message is acknowledged after its `receive` has returned."""
        self.declare([ConsumerGroup(each.group, (each.topic,)) for each in subscriptions])
        consumer = self._call(self._start_consumer, subscriptions)
        try:
            yield
        finally:
            self._call(self._stop, consumer)

    def close(self) -> None:
        """Give up the connections and end the thread of the loop."""
        self._call(self._drop_publisher)
        self._call(self._portal.stop)

    # What each broker does in its own way.

    @abstractmethod
    def _client(self, *, consumer: bool) -> Any:
        """Make a FastStream broker, not connected yet."""

    @abstractmethod
    async def _declare(self, client: Any, groups: Sequence[ConsumerGroup], route: Route) -> None:
        """Make on the broker what these groups and the route need."""

    @abstractmethod
    async def _send(self, client: Any, tenant: str, message: Message, route: Route) -> bool:
        """Publish one message and wait for its acknowledgement; return whether the broker had it already."""

    @abstractmethod
    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        """Return FastStream subscribers for a group, with manual acknowledgement."""

    def _parts(self, message: Any) -> list[tuple[Mapping[str, Any], bytes]]:
        """Return headers and body of each message in what FastStream handed over."""
        if isinstance(message.raw_message, list | tuple):
            return list(zip(message.batch_headers, message.body, strict=True))
        return [(message.headers, message.body)]

    async def _nack(self, message: Any) -> None:
        await message.nack()

    # What is the same for all.

    def _call(self, function: Any, *arguments: Any) -> Any:
        try:
            return self._portal.call(function, *arguments)
        except BrokerError:
            raise
        except Exception as error:
            raise BrokerError(f"broker {self.name}: {self._reason(error)}") from None  # the chain may show the URL

    def _reason(self, error: BaseException) -> str:
        text = " ".join(str(error).split()) or "no answer in time"
        secrets = self.url.partition("://")[2].rpartition("@")[0]
        for secret in sorted({secrets, *re.split("[:@,]", secrets)}, key=len, reverse=True):
            if secret:
                text = text.replace(secret, "***").replace(unquote(secret), "***")
        return f"{type(error).__name__}: {text}"

    async def _connected(self) -> Any:
        if self._publisher is None:
            client = self._client(consumer=False)
            try:
                with anyio.fail_after(self.acknowledge_within):
                    await client.start()
            except BaseException:
                await self._stop(client)
                raise
            self._publisher = client
        return self._publisher

    async def _declare_all(self, groups: Sequence[ConsumerGroup], route: Route) -> None:
        client = await self._connected()
        try:
            with anyio.fail_after(self.acknowledge_within):
                await self._declare(client, groups, route)
        except BaseException:
            await self._drop_publisher()
            raise

    async def _publish_all(self, tenant: str, messages: Sequence[Message], route: Route) -> set[UUID]:
        client = await self._connected()
        results = await self._send_all(client, tenant, messages, route)
        pairs = zip(messages, results, strict=True)
        if faults := [(message, result) for message, result in pairs if isinstance(result, BaseException)]:
            await self._drop_publisher()
            first, error = faults[0]
            raise BrokerError(
                f"broker {self.name}: {len(faults):,} of {count_of(len(messages), 'message was', 'messages were')} not acknowledged, "
                f"the first {first.topic} at offset {first.offset} of {tenant}: {self._reason(error)}"
            )
        return {message.uuid for message, is_known in zip(messages, results, strict=True) if is_known}

    async def _send_all(
        self, client: Any, tenant: str, messages: Sequence[Message], route: Route
    ) -> Sequence[bool | BaseException]:
        """Send in this order, without waiting for one acknowledgement before the next; return what became of each."""
        sends = (self._send(client, tenant, message, route) for message in messages)
        return await asyncio.gather(
            *(asyncio.wait_for(send, self.acknowledge_within) for send in sends), return_exceptions=True
        )

    async def _drop_publisher(self) -> None:
        client, self._publisher = self._publisher, None
        if client is not None:
            await self._stop(client)

    async def _start_consumer(self, subscriptions: Sequence[Subscription]) -> Any:
        client = self._client(consumer=True)
        threads = anyio.CapacityLimiter(_HANDLERS_AT_ONCE)
        for subscription in subscriptions:
            group = _Group(self, subscription, threads)
            for subscriber in self._subscribe(client, subscription):
                subscriber(group.receive)
        try:
            await client.start()
        except BaseException:
            await self._stop(client)
            raise
        return client

    def _deliveries(self, topic: str, message: Any) -> list[Delivery]:
        deliveries = []
        for headers, body in self._parts(message):
            try:
                deliveries.append(from_wire(topic, headers, body))
            except MalformedError as error:
                _log.warning("broker %s: left out: %s", self.name, error)
        return deliveries

    async def _stop(self, client: Any) -> None:
        """Stop a client, whatever state its connection is in."""
        with suppress(Exception), anyio.move_on_after(_CLOSE_WITHIN):
            await client.stop()


def _start_loop() -> anyio.from_thread.BlockingPortal:
    """Run an event loop in a thread that does not keep the process alive when nobody closes the broker."""
    started: Future[anyio.from_thread.BlockingPortal] = Future()

    async def serve() -> None:
        # What a connection that was given up leaves behind is not to be printed.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: _log.debug("%s", context.get("message")))
        async with anyio.from_thread.BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    threading.Thread(target=anyio.run, args=(serve,), name="erpkit-broker", daemon=True).start()
    return started.result()


class _Group:
    """Hands the messages of one group to its `receive`: in order, one call at a time, each with all that have arrived."""

    def __init__(self, broker: StreamBroker, subscription: Subscription, threads: anyio.CapacityLimiter) -> None:
        self._broker = broker
        self._subscription = subscription
        self._threads = threads
        self._turn = anyio.Lock()
        self._waiting: list[tuple[Any, asyncio.Future[bool]]] = []

    async def receive(self, message: Any) -> None:
        """Take one message (or a batch, where the broker makes them) and acknowledge it once it is handled."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, done))
        async with self._turn:  # to take it lets the others that came at once queue up first
            if not done.done():
                await self._hand_over()
        if done.result():
            await message.ack()
        else:
            await self._broker._nack(message)

    async def _hand_over(self) -> None:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        topic = self._subscription.topic
        deliveries = [each for message, _ in batch for each in self._broker._deliveries(topic, message)]
        success = await self._call_handler(deliveries)
        for _, done in batch:
            done.set_result(success)

    async def _call_handler(self, deliveries: Sequence[Delivery]) -> bool:
        try:
            await anyio.to_thread.run_sync(self._subscription.receive, deliveries, limiter=self._threads)
        except Exception as error:
            _log.warning("group %s: to be delivered again: %s", self._subscription.group, error)
            await anyio.sleep(_PAUSE)
            return False
        return True


async def as_it_is(message: Any) -> Any:
    """Decode nothing: `receive` is given FastStream's message, as bodies are read one by one."""
    return message
