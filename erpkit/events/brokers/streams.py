"""What all brokers behind FastStream have in common: an event loop in a thread, publishing, and consuming with late acknowledgement.

FastStream is asynchronous; handlers and the database are not. So the loop runs in a thread of its own, and handlers in others.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
from erpkit.events.brokers.broker import LIVE, Delivery, RefusedError, Route, Subscription
from erpkit.events.brokers.naming import Naming
from erpkit.events.brokers.wire import MalformedError, from_wire, size_of
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message
from erpkit.plural import count_of, part_of

BATCH = 100  # messages handed over at a time, where the broker can
_HANDLERS_AT_ONCE = 4  # of the pool's eight connections
_PAUSE = 1.0  # seconds before what failed is asked for again
_LOOK_AFTER = 2.0  # seconds between two looks whether consumers still have something to read from
_CLOSE_WITHIN = 2.0  # seconds

_UNFIT = (ValueError, TypeError, struct.error)  # what libraries raise for a name or a value that they cannot send

_LOUD = ("aio_pika", "aiokafka", "aiormq", "faststream", "nats", "redis")

_log = logging.getLogger("erpkit.brokers")


class StreamBroker(ABC):
    """A broker through FastStream.

    `acknowledge_within` is how many seconds the broker waits for the acknowledgement of what it was given; `redeliver_after`
    how many pass until a consumer that fell silent is taken for dead and its messages are delivered to another.
    """

    scheme: ClassVar[str]
    order: ClassVar[str]

    subject: ClassVar[str]  # the pattern of names, unless the settings say otherwise

    def __init__(
        self, url: str, *, acknowledge_within: float = 10, redeliver_after: float = 30, subject: str = ""
    ) -> None:
        self.naming = Naming(subject or self.subject)
        self.url = url
        self.name = mask_url(url)
        self.acknowledge_within = acknowledge_within
        self.redeliver_after = redeliver_after
        self._publisher: Any = None
        for library in _LOUD:  # what they tell is in the errors, and without a handler Python would print it
            logging.getLogger(library).addHandler(logging.NullHandler())
        self._portal, self._thread = _start_loop()

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Publish in this order and return once all are acknowledged; raises BrokerError if some may not be.

        None is stored behind one that was not. Return the uuids of those that it had already, by their message id, and dropped.
        Raises RefusedError for the first that the broker refuses for good. A connection on which anything failed is given up:
        what it still held might overtake what is sent again.
        """
        known: set[UUID] = self._call(self._publish_all, tenant, messages, route)
        return known

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:
        """Make sure that what is published from now on is kept: for these groups, and on this route."""
        self._call(self._declare_all, groups, route)

    def has_mark(self) -> bool:
        """Tell whether the mark is there that a forwarder leaves: without it, what was forwarded before is gone."""
        return bool(self._call(self._with_publisher, self._has_mark))

    def leave_mark(self) -> None:
        """Leave the mark, which lasts as long as what is published."""
        self._call(self._with_publisher, self._leave_mark)

    @contextmanager
    def consuming(self, subscriptions: Sequence[Subscription]) -> Iterator[None]:
        """Deliver to `subscriptions` while the block runs; a message is acknowledged after its `receive` has returned."""
        self.declare(_groups(subscriptions))
        running = [self._call(self._start_consumer, subscriptions)]
        watching = self._portal.start_task_soon(self._watch, subscriptions, running)
        try:
            yield
        finally:
            watching.cancel()
            self._call(self._stop, running[0])

    def close(self) -> None:
        """Give up the connections and end the thread of the loop."""
        self._call(self._drop_publisher)
        self._call(self._portal.stop)
        self._thread.join(2 * _CLOSE_WITHIN)

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
    async def _has_mark(self, client: Any) -> bool:
        """Tell whether the forwarder's mark is there."""

    @abstractmethod
    async def _leave_mark(self, client: Any) -> None:
        """Leave the forwarder's mark."""

    @abstractmethod
    def _subscribe(self, client: Any, subscription: Subscription) -> list[Any]:
        """Return FastStream subscribers for a group, with manual acknowledgement."""

    @abstractmethod
    def _name(self, raw: Any) -> str:
        """Return the subject, or the topic, that a message came on."""

    def _parts(self, message: Any) -> list[tuple[str, Mapping[str, Any], bytes]]:
        """Return the subject, headers and body of each message in what FastStream handed over."""
        raw = message.raw_message
        if isinstance(raw, list | tuple):
            return list(zip(map(self._name, raw), message.batch_headers, message.body, strict=True))
        return [(self._name(raw), message.headers, message.body)]

    def _published_as(self, tenant: str, message: Message, route: Route) -> str:
        """Return the name that a message is published under."""
        if route.is_live:
            return self.naming.name(tenant, message.topic, message.uuid)
        return f"{route.subject}.{tenant}.{message.topic}"

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
        await self._with_publisher(self._declare, groups, route)

    async def _with_publisher(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Do something over the publisher's connection, which is given up when it fails."""
        client = await self._connected()
        try:
            with anyio.fail_after(self.acknowledge_within):
                return await work(client, *arguments)
        except BaseException:
            await self._drop_publisher()
            raise

    async def _publish_all(self, tenant: str, messages: Sequence[Message], route: Route) -> set[UUID]:
        client = await self._connected()
        results = await self._send_all(client, tenant, messages, route)
        if results and isinstance(results[-1], BaseException):
            error = await self._fault(client, tenant, messages, len(results) - 1, results[-1])
            await self._drop_publisher()
            raise error
        return {message.uuid for message, is_known in zip(messages, results, strict=True) if is_known}

    async def _send_all(
        self, client: Any, tenant: str, messages: Sequence[Message], route: Route
    ) -> list[bool | BaseException]:
        """Send one after the other, each once the one before it is acknowledged, up to the first fault; return what became of each."""
        results: list[bool | BaseException] = []
        for message in messages:
            try:
                sending = self._send(client, tenant, message, route)
                results.append(await asyncio.wait_for(sending, self.acknowledge_within))
            except Exception as error:
                return [*results, error]
        return results

    async def _fault(
        self, client: Any, tenant: str, messages: Sequence[Message], index: int, error: BaseException
    ) -> BrokerError:
        first = messages[index]
        place = f"{first.topic} at offset {first.offset} of {tenant}"
        if refusal := await self._refusal(client, error):
            size = size_of(tenant, first)
            return RefusedError(f"broker {self.name} refuses {place}, of {count_of(size, 'byte')}: {refusal}", first)
        return BrokerError(
            f"broker {self.name}: {part_of(len(messages) - index, len(messages), 'message', 'was', 'were')} not "
            f"acknowledged, the first {place}: {self._reason(error)}"
        )

    async def _refusal(self, client: Any, error: BaseException) -> str:  # noqa: ARG002
        """Return why a message is refused for good, with the limit; "" where it may be taken later."""
        return self._reason(error) if isinstance(error, _UNFIT) else ""

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

    async def _watch(self, subscriptions: Sequence[Subscription], running: list[Any]) -> None:
        """Start the consumer anew when the broker has lost what it reads from, as the libraries give up, or wait for ever."""
        while True:
            await anyio.sleep(_LOOK_AFTER)
            with suppress(Exception):  # while the broker is away
                if await self._is_lost(running[0]):
                    _log.warning("broker %s has lost what was consumed from it: made anew", self.name)
                    await self._declare_all(_groups(subscriptions), LIVE)
                    await self._stop(running[0])
                    running[0] = await self._start_consumer(subscriptions)

    async def _is_lost(self, client: Any) -> bool:
        """Tell whether some subscriber has ended, or has nothing to read from."""
        return not all(subscriber.running for subscriber in client.subscribers)

    def _deliveries(self, subscription: Subscription, message: Any) -> list[Delivery]:
        deliveries = []
        for name, headers, body in self._parts(message):
            tenant, said = self.naming.read(name)
            try:
                deliveries.append(from_wire(said or subscription.topic, headers, body, tenant))
            except MalformedError as error:
                _log.warning("broker %s: left out: %s", self.name, error)
                subscription.leave_out()
        return deliveries

    async def _stop(self, client: Any) -> None:
        """Stop a client, whatever state its connection is in."""
        with suppress(Exception), anyio.move_on_after(_CLOSE_WITHIN):
            await client.stop()


def _groups(subscriptions: Sequence[Subscription]) -> list[ConsumerGroup]:
    return [ConsumerGroup(each.group, (each.topic,)) for each in subscriptions]


def _start_loop() -> tuple[anyio.from_thread.BlockingPortal, threading.Thread]:
    """Run an event loop in a thread that does not keep the process alive when nobody closes the broker."""
    started: Future[anyio.from_thread.BlockingPortal] = Future()

    async def serve() -> None:
        # What a connection that was given up leaves behind is not to be printed.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: _log.debug("%s", context.get("message")))
        async with anyio.from_thread.BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()
        await _end_tasks()

    thread = threading.Thread(target=anyio.run, args=(serve,), name="erpkit-broker", daemon=True)
    thread.start()
    return started.result(), thread


async def _end_tasks() -> None:
    """End what the libraries left running; to end one may start another, as aio_pika does for a connection that closes."""
    with anyio.move_on_after(_CLOSE_WITHIN):
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


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
        deliveries = [each for message, _ in batch for each in self._broker._deliveries(self._subscription, message)]
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
