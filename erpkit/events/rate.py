"""A rate limit: so many messages a second, over all threads that share it."""

from __future__ import annotations

import threading
import time

__all__ = ["RateLimit"]


class RateLimit:
    """Tells for how long to wait so that no more than `per_second` messages a second go through, evenly spread.

    The first `burst` messages need not wait. Time that passed unused is made up for, up to `catch_up` seconds of it.
    """

    def __init__(self, per_second: float, *, burst: int = 0, catch_up: float = 0.0) -> None:
        self._cost = 1 / per_second
        self._catch_up = max(catch_up, burst / per_second)
        self._paid_at = time.monotonic() - burst / per_second
        self._lock = threading.Lock()

    def reserve(self, messages: int = 1) -> float:
        """Count `messages` as let through, and return the seconds after which all that were let through fit the rate."""
        with self._lock:
            now = time.monotonic()
            self._paid_at = max(self._paid_at, now - self._catch_up) + messages * self._cost
            return max(0.0, self._paid_at - now)
