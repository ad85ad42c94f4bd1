"""Tenants that are suspended, renamed and dropped while their events are dispatched."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError, TenantNotActiveError
from erpkit.events import (
    CommandBus,
    Context,
    Worker,
    WorkerOptions,
    WorkerReport,
    dispatch,
    list_dead_letters,
)
from erpkit.modules import CommandHandler, EventHandler, Module, Registry
from erpkit.tenants import drop_tenant, list_tenants, plan_drop, rename_tenant, set_status
from tests.events.noting import append_numbers, effects, make_tenant, until
from tests.processes import start


@dataclass(frozen=True)
class Noted:
    number: int


@dataclass(frozen=True)
class Note:
    number: int


def _note(event: Noted, context: Context) -> None:
    """Write the number down; hang on -1."""
    context.connection.execute("INSERT INTO effects (number) VALUES (%s)", [event.number])
    while event.number == -1:
        time.sleep(60)
    if event.number >= 1000:  # slow ones
        time.sleep(0.02)


def _take_note(command: Note, context: Context) -> None:
    context.publish(Noted(command.number))


ERP = Registry.of(
    [
        Module(
            "notes",
            publishes=(Noted,),
            commands=(CommandHandler(Note, _take_note),),
            subscribes=(EventHandler("notes.on_noted", Noted, _note),),
        )
    ]
)


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database, "acme")


def _is_busy(database: Database) -> bool:
    """Whether a handler is inside its transaction."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE '%%effects%%'"
        ).fetchone()
    return row != (0,)


@contextmanager
def _running(database: Database, erp: Registry = ERP) -> Iterator[tuple[list[WorkerReport], threading.Thread]]:
    """Run a worker that looks at all tenants seldom."""
    reports: list[WorkerReport] = []
    worker = Worker(database, erp, list_tenants, reports.append, WorkerOptions(poll=1))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: reports)
        yield reports, thread
    finally:
        worker.stop()
        thread.join()


def test_a_batch_ends_with_the_event_that_is_being_handled_when_its_tenant_is_suspended(
    database: Database, acme: Tenant
) -> None:
    append_numbers(database, acme, *range(1000, 1400))  # eight seconds of work in one batch
    with _running(database):
        until(lambda: _is_busy(database))
        with database.connection() as connection:
            set_status(connection, "acme", "suspended")
        done = effects(database, acme)
        time.sleep(1.5)  # the worker has looked at all tenants meanwhile
    assert effects(database, acme) == done
    assert 0 < len(done) < 200
    with database.connection() as connection:
        tenant = set_status(connection, "acme", "active")
    append_numbers(database, tenant, 1)
    dispatch(database, tenant, ERP)
    assert effects(database, tenant) == [*range(1000, 1400), 1]


def test_a_command_to_a_suspended_tenant_is_refused_also_where_the_caller_does_not_know_it_yet(
    database: Database, acme: Tenant
) -> None:
    bus = CommandBus(database, ERP)
    bus.send(acme, Note(1))
    with database.connection() as connection:
        set_status(connection, "acme", "suspended")
    with pytest.raises(TenantNotActiveError, match="acme is suspended: nothing was done.*activate acme"):
        bus.send(acme, Note(2))
    with database.connection() as connection:
        set_status(connection, "acme", "active")
    bus.send(acme, Note(3))
    dispatch(database, acme, ERP)
    assert effects(database, acme) == [1, 3]


def test_a_handler_with_effects_outside_ends_its_turn_after_the_event_that_it_has(
    database: Database, acme: Tenant
) -> None:
    handler = EventHandler("notes.on_noted", Noted, _note, effects="outside", start="beginning")
    mailing = Registry.of([Module("notes", publishes=(Noted,), subscribes=(handler,))])
    append_numbers(database, acme, *range(1000, 1100))
    with _running(database, mailing):
        until(lambda: effects(database, acme))
        with database.connection() as connection:
            set_status(connection, "acme", "suspended")
        done = effects(database, acme)
    assert effects(database, acme) == done == list(range(1000, 1000 + len(done)))
    assert len(done) < 100


def test_an_archived_tenants_events_become_no_dead_letters(database: Database, acme: Tenant) -> None:
    append_numbers(database, acme, *range(1000, 1200))
    with _running(database):
        until(lambda: _is_busy(database))
        with database.connection() as connection:
            set_status(connection, "acme", "archived")
    with database.connection() as connection:
        assert list_dead_letters(connection, [acme]) == []


@pytest.mark.parametrize("round_", range(3))
def test_dropping_and_renaming_tenants_beside_a_busy_worker_ends_neither(database: Database, round_: int) -> None:
    tenants = [make_tenant(database, f"t{number}") for number in range(4)]
    with _running(database) as (reports, thread):
        for tenant in tenants:
            append_numbers(database, tenant, *range(round_, 400))
        until(lambda: _is_busy(database))
        with database.connection() as connection:
            for tenant in tenants[:2]:
                set_status(connection, tenant.slug, "suspended")
                drop_tenant(database, tenant.slug, plan_drop(connection, tenant).id)
        moved = rename_tenant(database, "t2", "t2_new").tenant
        append_numbers(database, moved, 7)
        until(lambda: effects(database, moved)[-1:] == [7] and len(effects(database, moved)) == 401 - round_)
        until(lambda: len(effects(database, tenants[3])) == 400 - round_)
        assert thread.is_alive()
    assert effects(database, moved)[:-1] == list(range(round_, 400))
    assert not any("lost the database" in news for report in reports for news in report.news)
    with database.connection() as connection:
        assert list_dead_letters(connection, [moved, tenants[3]]) == []


def _serve(conninfo: str) -> None:
    Worker(Database(conninfo, "test"), ERP, list_tenants, lambda _: None, WorkerOptions(poll=1, limit=12)).run()


def test_a_handler_that_hangs_while_its_tenant_is_dropped_holds_up_the_drop_and_nothing_else(
    database: Database, acme: Tenant, tmp_path: Path
) -> None:
    other = make_tenant(database, "bluebird")
    append_numbers(database, acme, -1)
    process = start(_serve, database.conninfo, stderr=tmp_path / "stderr")
    until(lambda: _is_busy(database))
    with database.connection() as connection:
        with pytest.raises(DatabaseError, match=r"tenant acme is in use.*held by process \d+.*it is suspended"):
            set_status(connection, "acme", "suspended")
        process.join(60)
        assert process.exitcode == 1  # the watchdog ended it; a supervisor starts it again
        again = start(_serve, database.conninfo, stderr=tmp_path / "again")
        append_numbers(database, other, 5)
        drop_tenant(database, "acme", plan_drop(connection, acme).id)
        until(lambda: effects(database, other) == [5])
        assert again.is_alive()
        again.kill()
        assert [tenant.slug for tenant in list_tenants(connection)] == ["bluebird"]


def test_a_drop_beside_readers_waits_for_them_and_meets_no_deadlock(database: Database, acme: Tenant) -> None:
    """A reader holds a table that is dropped late, and then reads one that is dropped early."""
    with database.connection() as connection, psycopg.connect(database.conninfo) as reader:
        set_status(connection, "acme", "suspended")
        plan = plan_drop(connection, acme)
        reader.execute(f"SELECT count(*) FROM {acme.schema}.erpkit_replays")
        dropping = threading.Thread(target=drop_tenant, args=(database, "acme", plan.id))
        dropping.start()
        until(lambda: _is_waiting(connection))
        reader.execute(f"SELECT count(*) FROM {acme.schema}.erpkit_checkpoints")
        reader.commit()
        dropping.join()
        assert list_tenants(connection) == []


def _is_waiting(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    return connection.execute(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
    ).fetchone() != (0,)
