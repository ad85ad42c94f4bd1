"""A dead letter names its true cause, and a handler that ends its transaction loses nobody's effect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.events import Consumer, Context, dispatch
from erpkit.events.dispatch import dispatch_batch
from erpkit.modules import EventHandler, Registry
from tests.events.small import Placed, Weighed, do, done, erp_of, letters, make_tenant, publish, run


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database)


def _erp(bad: Callable[[Context], object]) -> Registry:
    def handle(event: Placed, context: Context) -> None:
        do(context.connection, event.number)
        if event.number == 2:
            bad(context)
        context.publish(Weighed(event.number))

    return erp_of(EventHandler("shop.on_placed", Placed, handle))


def _swallow(context: Context) -> None:
    with suppress(psycopg.Error):
        context.connection.execute("INSERT INTO done (number) VALUES ('seven')")


def _swallow_and_go_on(context: Context) -> None:
    _swallow(context)
    context.connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (lambda c: do(c.connection, 1), "UniqueViolation: duplicate key value violates unique constraint"),
        (lambda c: c.publish(Weighed(2, note="a\0b")), "PayloadError: Weighed.note: the text holds a NUL character"),
        (lambda c: c.publish(Weighed(2, note="\ud800")), "PayloadError: Weighed.note: the text holds a lone surrogate"),
        (lambda c: c.publish(Weighed(2, float("nan"))), "PayloadError: Weighed.weight: nan is not a number"),
        (_swallow, 'it caught a database error and went on: use a savepoint (connection.transaction()): InvalidText'),
        (_swallow_and_go_on, 'savepoint (connection.transaction()): InvalidTextRepresentation: invalid input syntax for'),
        (lambda c: c.connection.execute("COMMIT"), "it ended the transaction itself"),
        (lambda c: c.connection.execute("ROLLBACK"), "it ended the transaction itself"),
        (lambda c: c.connection.execute("COMMIT AND CHAIN"), "it ended the transaction itself"),
        (lambda c: c.connection.execute("ROLLBACK; BEGIN"), "it ended the transaction itself"),
        (lambda c: c.connection.execute("RESET ROLE"), "HandlerError: it changed the role or the search_path"),
        (lambda c: c.connection.execute("SET search_path = public"), "HandlerError: it changed the role or the search_path"),
    ],
)  # fmt: skip
def test_a_letter_names_its_cause_and_the_others_have_their_effect(
    database: Database, acme: Tenant, bad: Callable[[Context], object], cause: str
) -> None:
    publish(database, acme, *map(Placed, range(5)))
    dispatch(database, acme, _erp(bad))
    ((offset, error),) = letters(database, acme)
    assert offset == 3
    assert cause in error
    effects = [number for number, _ in done(database, acme)]
    assert sorted({*effects} - {2}) == [0, 1, 3, 4]
    assert len(effects) - effects.count(2) == 4
    weighed = "SELECT (payload->>'number')::int FROM erpkit_events WHERE topic = 'shop.Weighed' ORDER BY 1"
    assert run(database, acme, weighed) == [(0,), (1,), (3,), (4,)]


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK; BEGIN"])
def test_an_event_whose_handler_ended_its_transaction_is_not_parked_and_nothing_is_printed(
    database: Database,
    acme: Tenant,
    ending: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(event: Placed, context: Context) -> None:
        do(context.connection, event.number)
        if event.number in (2, 4, 5):
            context.connection.execute(ending.encode())
            raise ValueError("and failed")

    publish(database, acme, *map(Placed, range(8)))
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own, without which Python prints warnings
    found = dispatch(database, acme, erp_of(EventHandler("shop.on_placed", Placed, end)))
    assert (found.handled, found.dead, found.parked) == (5, 3, 0)
    assert capsys.readouterr().err == ""


def test_a_handler_may_catch_a_database_error_in_a_savepoint(database: Database, acme: Tenant) -> None:
    def careful(context: Context) -> None:
        with suppress(psycopg.Error), context.connection.transaction():
            context.connection.execute("INSERT INTO done (number) VALUES ('seven')")

    publish(database, acme, Placed(2))
    assert dispatch(database, acme, _erp(careful)).handled == 1


def test_an_error_of_the_commit_itself_is_in_the_letter(database: Database, acme: Tenant) -> None:
    def handle(event: Placed, context: Context) -> None:
        do(context.connection, event.number)

    publish(database, acme, Placed(1))
    registry = erp_of(EventHandler("shop.on_placed", Placed, handle))
    with database.connection() as connection:
        connection.execute(
            f"CREATE FUNCTION {acme.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN IF NEW.in_hand IS NULL THEN RAISE 'the disk is full'; END IF; RETURN NEW; END$$; "
            f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {acme.schema}.erpkit_checkpoints "
            f'FOR EACH ROW WHEN (NEW."offset" > 0) EXECUTE FUNCTION {acme.schema}.refuse()'.encode()
        )
    consumer = Consumer(acme, registry, registry.event_handlers["shop.on_placed"])
    for _ in range(3):
        with pytest.raises(psycopg.Error, match="the disk is full"):
            dispatch_batch(database, consumer)
    run(database, acme, "UPDATE erpkit_checkpoints SET attempts = 3")
    with database.connection() as connection:
        connection.execute(f"DROP TRIGGER refuse ON {acme.schema}.erpkit_checkpoints".encode())
    dispatch(database, acme, registry)
    ((_, error),) = letters(database, acme)
    assert "3 times with it in flight; the last error: RaiseException: the disk is full" in error


def test_a_long_error_is_kept_to_eight_kibibytes(database: Database, acme: Tenant) -> None:
    def fail(context: Context) -> None:
        raise ValueError("ä\0" * 100_000)

    publish(database, acme, Placed(2))
    dispatch(database, acme, _erp(fail))
    ((_, error),) = letters(database, acme)
    assert error.startswith("ValueError: ä\\0ä")
    assert 8_000 < len(error.encode()) <= 8_192
