"""Programs that insert into the log by themselves: nothing of theirs is skipped, and they hold nobody up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.events import Message, append, read_events
from erpkit.migrations import read_migrations
from erpkit.tenants import create_tenant

_PLAIN = "INSERT INTO erpkit_events (uuid, topic, payload) VALUES (gen_random_uuid(), 'notes.Noted', jsonb_build_object('n', {}))"


@pytest.fixture
def acme(database: Database) -> Tenant:
    return create_tenant(database, read_migrations([]), "acme")


@contextmanager
def _program(database: Database, tenant: Tenant) -> Iterator[Connection]:
    """A program of another vendor, in a transaction of its own, under a role that may only insert."""
    with psycopg.connect(database.conninfo) as connection:
        connection.execute(f'SET ROLE "{tenant.role}"')
        connection.execute(f"SET search_path TO {tenant.schema}")
        yield connection


def _append(database: Database, tenant: Tenant, *numbers: int) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("notes.Noted", {"n": number}) for number in numbers])


def _read(database: Database, tenant: Tenant, after: int = 0) -> list[tuple[int, int]]:
    with database.tenant_transaction(tenant) as connection:
        events = read_events(connection, "notes.Noted", after, 100)
    return [(event.offset or 0, event.payload["n"]) for event in events]


def test_a_row_that_is_committed_late_stands_behind_what_readers_have_passed(database: Database, acme: Tenant) -> None:
    with _program(database, acme) as program:
        for number in (1, 2):
            program.execute(_PLAIN.format(number))
        _append(database, acme, 3)  # nobody waits for the open transaction
        passed = _read(database, acme)
        program.commit()
    assert [number for _, number in passed] == [3]
    assert [number for _, number in _read(database, acme, after=passed[-1][0])] == [1, 2]


def test_an_append_keeps_its_offsets_and_so_does_what_is_inserted_after_it(database: Database, acme: Tenant) -> None:
    with _program(database, acme) as program:
        append(program, [Message("notes.Noted", {"n": 1})])
        program.execute(_PLAIN.format(2))
        before = program.execute('SELECT "offset" FROM erpkit_events ORDER BY 1').fetchall()
        program.commit()
    assert [(offset,) for offset, _ in _read(database, acme)] == before


def test_an_undone_append_does_not_excuse_a_plain_insert(database: Database, acme: Tenant) -> None:
    with _program(database, acme) as program:
        with pytest.raises(psycopg.errors.DivisionByZero), program.transaction():
            append(program, [Message("notes.Noted", {"n": 0})])
            program.execute("SELECT 1 / 0")
        program.execute(_PLAIN.format(1))
        _append(database, acme, 2)  # the savepoint gave the lock back
        program.commit()
    assert [number for _, number in _read(database, acme)] == [2, 1]


def test_a_plain_insert_wakes_a_worker(database: Database, acme: Tenant) -> None:
    heard = []
    with psycopg.connect(database.conninfo, autocommit=True) as listener, _program(database, acme) as program:
        listener.execute("LISTEN erpkit_events")
        program.execute(_PLAIN.format(1))
        program.commit()
        heard = [notify.payload for notify in listener.notifies(timeout=5, stop_after=1)]
    assert heard == [acme.schema]


def test_readers_that_never_look_back_miss_no_row_of_programs_that_insert_at_once(
    database: Database, acme: Tenant
) -> None:
    each, done = 40, threading.Event()

    def insert() -> None:
        with _program(database, acme) as program:
            for number in range(each):
                program.execute(_PLAIN.format(number))
                program.commit()

    def go_on() -> None:
        for number in range(each):
            _append(database, acme, number)

    threads = [threading.Thread(target=work) for work in (insert, insert, go_on)]
    for thread in threads:
        thread.start()
    seen: list[tuple[int, int]] = []
    while not done.is_set():
        if not any(thread.is_alive() for thread in threads):
            done.set()
        while found := _read(database, acme, after=seen[-1][0] if seen else 0):
            seen += found
    assert len(seen) == 3 * each
