"""The broker for development: in this process, gone with it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from erpkit.events.brokers.broker import LIVE, Delivery, Route, Subscription
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.message import Message

_PAUSE = 0.1  # seconds before what failed is delivered again
_BATCH = 100


class MemoryBroker:
    """Keeps for each declared group what was published on its topic, until it is acknowledged."""

    scheme = "memory"
    name = "memory:"

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], deque[Delivery]] = {}
        self._changed = threading.Condition()

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        """Hand the messages to every group of their topic; without one, or on a route of their own, they are gone."""
        with self._changed:
            for message in messages:
                for (_, topic), queue in self._queues.items():
                    if topic == message.topic and route.is_live:
                        queue.append(Delivery(tenant, message))
            self._changed.notify_all()
        return set()

    def declare(self, groups: Sequence[ConsumerGroup], route: Route = LIVE) -> None:  # noqa: ARG002
        """Keep what is published from now on for these groups."""
        with self._changed:
            for group in groups:
                for topic in group.topics:
                    self._queues.setdefault((group.name, topic), deque())

    @contextmanager
    def consuming(self, subscriptions: Sequence[Subscription]) -> Iterator[None]:
        """Deliver to `subscriptions`, each from a thread of its own, while the block runs."""
        self.declare([ConsumerGroup(each.group, (each.topic,)) for each in subscriptions])
        stop = threading.Event()
        threads = [threading.Thread(target=self._serve, args=(each, stop), daemon=True) for each in subscriptions]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            with self._changed:
                self._changed.notify_all()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Forget everything."""
        self._queues.clear()

    def _serve(self, subscription: Subscription, stop: threading.Event) -> None:
        queue = self._queues[subscription.group, subscription.topic]
        while not stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: queue or stop.is_set())
                batch = [queue[index] for index in range(min(len(queue), _BATCH))]
            if stop.is_set():
                return
            try:
                subscription.receive(batch)
            except Exception:  # it stays in the queue
                stop.wait(_PAUSE)
                continue
            for _ in batch:
                queue.popleft()
