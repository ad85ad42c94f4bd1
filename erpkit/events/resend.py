"""Events of the past, handed to somebody who publishes them: a broker's subject, say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

from erpkit.database import Connection, Database, Tenant
from erpkit.events.message import Message
from erpkit.events.replay import Pace, stop_on_interrupt
from erpkit.events.selection import Selection, list_topics, read_selected

__all__ = ["Publish", "send_events"]

Publish = Callable[[Tenant, list[Message]], object]


def send_events(
    database: Database,
    tenants: Sequence[Tenant],
    selection: Selection,
    publish: Publish,
    *,
    rate: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Hand the selected events to `publish`, a batch at a time in the order of the log; return how many.

    It is called outside any transaction, and each message has a `replay_id`. What it raises ends the work. Messages keep
    their uuid, so that a broker or a consumer that knows one already drops it.
    """
    stop = stop or threading.Event()
    pace, replay_id, sent = Pace(rate, stop), uuid4(), 0
    with stop_on_interrupt(stop):
        for tenant in tenants:
            after = 0
            while not stop.is_set() and (batch := _read(database, tenant, selection, after, pace.batch, replay_id)):
                publish(tenant, batch)
                after, sent = batch[-1].offset or 0, sent + len(batch)
                if progress is not None:
                    progress(len(batch))
                pace.wait(len(batch))
    return sent


def _read(
    database: Database, tenant: Tenant, selection: Selection, after: int, limit: int, replay_id: UUID
) -> list[Message]:
    with database.tenant_transaction(tenant) as connection:
        return read_selected(
            connection, selection, list_topics(connection, selection), after, _last(connection), limit, replay_id
        )


def _last(connection: Connection) -> int:
    row = connection.execute('SELECT coalesce(max("offset"), 0) FROM erpkit_events').fetchone()
    return row[0] if row else 0
