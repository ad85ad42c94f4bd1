"""The handlers' subscription to the log, inside the application's own process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from erpkit.database import Database
from erpkit.events import Worker, WorkerReport
from erpkit.modules import Registry
from erpkit.tenants import find_tenants

__all__ = ["dispatching"]


@contextmanager
def dispatching(
    database: Database, registry: Registry, on_report: Callable[[WorkerReport], object]
) -> Iterator[Worker]:
    """Hand events to their handlers in a thread for the time of the block; the batch in hand is finished at its end."""
    database.check_writable()
    worker = Worker(database, registry, find_tenants, on_report)
    thread = threading.Thread(target=worker.run, name="erpkit-dispatch", daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()
