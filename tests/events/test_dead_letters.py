"""Dead letters: counted over the fleet, shown without their payload, retried and discarded with one effect."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from uuid import UUID, uuid4

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import (
    Context,
    LetterResult,
    LetterSelection,
    Message,
    append,
    count_dead_letters,
    dispatch,
    encode,
    list_dead_letters,
    plan_discard,
    plan_retry,
    run_letters,
    show_dead_letter,
    sum_counts,
)
from erpkit.events.letter_plan import LetterPlan
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import create_tenant, set_status
from tests.conftest import count_queries

_slugs = (f"letters_{number}" for number in count())


@dataclass(frozen=True)
class Noted:
    number: int
    poison: str = ""


@dataclass(frozen=True)
class Echoed:
    number: int


def _note(event: Noted, context: Context) -> None:
    """Leave a row and an event; fail, after that, on poison that is not mended yet."""
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"noted {event.number}"])
    context.publish(Echoed(event.number))
    mended = context.connection.execute("SELECT 1 FROM catalog_categories WHERE name = 'mended'").fetchone()
    if event.poison and not mended:
        raise ValueError(f"{event.poison} in number {event.number}")


def _registry(note: object = _note) -> Registry:
    handler = EventHandler("notes.on_noted", Noted, note)  # type: ignore[arg-type]
    return Registry.of([Module("notes", publishes=(Noted, Echoed), subscribes=(handler,))])


NOTES = _registry()


@pytest.fixture
def tenant(shared_database: Database, migrations: tuple[Migration, ...]) -> Iterator[Tenant]:
    tenant = create_tenant(shared_database, migrations, next(_slugs))
    yield tenant
    with shared_database.connection() as connection:
        set_status(connection, tenant.slug, "suspended")


def _publish(database: Database, tenant: Tenant, *events: Noted) -> list[UUID]:
    messages = [Message("notes.Noted", encode(event)) for event in events]
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, messages)
    dispatch(database, tenant, NOTES)
    return [message.uuid for message in messages]


def _run(database: Database, tenant: Tenant, query: str) -> list[tuple[object, ...]]:
    with database.tenant_transaction(tenant, write=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def _mend(database: Database, tenant: Tenant) -> None:
    _run(database, tenant, "INSERT INTO catalog_categories VALUES ('mended')")


def _noted(database: Database, tenant: Tenant) -> list[object]:
    return [
        name
        for (name,) in _run(database, tenant, "SELECT name FROM catalog_categories WHERE name LIKE 'noted%' ORDER BY 1")
    ]


def _open(database: Database, tenant: Tenant) -> list[int]:
    with database.connection() as connection:
        return [letter.offset for letter in list_dead_letters(connection, [tenant])]


def _plan(database: Database, tenant: Tenant, selection: LetterSelection | None = None) -> LetterPlan:
    with database.connection() as connection:
        return plan_retry(connection, [tenant], NOTES, selection)


def test_a_retry_makes_the_effect_the_inbox_row_and_the_closed_letter_true_together(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1), Noted(2, "arsenic"))
    _mend(shared_database, tenant)
    plan = _plan(shared_database, tenant)
    run = run_letters(shared_database, NOTES, plan, plan.id)
    assert [(r.offset, r.state, r.detail) for r in run.results] == [(2, "handled", "")]
    assert _noted(shared_database, tenant) == ["noted 1", "noted 2"]
    assert _run(shared_database, tenant, "SELECT count(*) FROM erpkit_inbox") == [(2,)]
    ((status, who, reason, when),) = _run(
        shared_database, tenant, "SELECT status, resolved_by, reason, resolved_at IS NOT NULL FROM erpkit_dead_letters"
    )
    assert (status, bool(who), reason, when) == ("resolved", True, f"retried: {plan.id}", True)
    echoes = "SELECT count(*) FROM erpkit_events WHERE topic = 'notes.Echoed'"
    assert _run(shared_database, tenant, echoes) == [(2,)]  # and what the handler published


def test_a_letter_that_fails_again_stays_open_with_its_new_error_and_no_effect(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    plan = _plan(shared_database, tenant)
    run = run_letters(shared_database, _registry(_fail_otherwise), plan, plan.id)
    assert [(r.state, r.detail) for r in run.failed] == [("failed", "KeyError: 'something else'")]
    letter = show_dead_letter(shared_database, tenant, 1).letter
    assert (letter.error, letter.attempts) == ("KeyError: 'something else'", 4)
    assert _noted(shared_database, tenant) == []


def _fail_otherwise(event: Noted, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES ('noted twice')")
    raise KeyError("something else")


def test_only_what_is_selected_is_retried(shared_database: Database, tenant: Tenant) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"), Noted(2, "lead"), Noted(3, "lead"))
    _mend(shared_database, tenant)
    plan = _plan(shared_database, tenant, LetterSelection(cause="LEAD in number …"))
    assert [(c.cause, c.letters) for c in plan.counts()] == [("ValueError: lead in number …", 2)]
    run_letters(shared_database, NOTES, plan, plan.id)
    assert _open(shared_database, tenant) == [1]


def test_a_stale_or_wrong_plan_id_changes_nothing(shared_database: Database, tenant: Tenant) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    shown = _plan(shared_database, tenant)
    _publish(shared_database, tenant, Noted(2, "arsenic"))
    _mend(shared_database, tenant)
    with pytest.raises(PlanChangedError, match="nothing was done"):
        run_letters(shared_database, NOTES, _plan(shared_database, tenant), shown.id)
    assert _open(shared_database, tenant) == [1, 2]


def test_two_operators_who_retry_the_same_letters_at_once_have_one_effect(
    shared_database: Database, tenant: Tenant
) -> None:
    bad = [Noted(number, "arsenic") for number in range(20)]
    _publish(
        shared_database,
        tenant,
        *(one for first in range(0, 20, 4) for one in (*bad[first : first + 4], Noted(100 + first))),
    )
    _mend(shared_database, tenant)
    plan = _plan(shared_database, tenant)
    inside = threading.Barrier(2)
    results: list[LetterResult] = []

    def retry() -> None:
        inside.wait()
        results.extend(run_letters(shared_database, NOTES, plan, plan.id).results)

    threads = [threading.Thread(target=retry) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(r.state for r in results) == ["handled"] * 20 + ["left alone"] * 20
    assert len(_noted(shared_database, tenant)) == 25
    assert _run(shared_database, tenant, "SELECT count(*) FROM erpkit_events WHERE topic = 'notes.Echoed'") == [(25,)]


def test_a_letter_whose_event_was_handled_otherwise_is_closed_without_a_second_effect(
    shared_database: Database, tenant: Tenant
) -> None:
    (uuid,) = _publish(shared_database, tenant, Noted(1, "arsenic"))
    _run(shared_database, tenant, f"INSERT INTO erpkit_inbox VALUES ('notes.on_noted', '{uuid}')")
    plan = _plan(shared_database, tenant)
    (result,) = run_letters(shared_database, NOTES, plan, plan.id).results
    assert (result.state, "handled by other means" in result.detail) == ("left alone", True)
    assert (_noted(shared_database, tenant), _open(shared_database, tenant)) == ([], [])


def test_a_letter_that_somebody_discarded_in_the_meantime_is_left_alone(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    plan = _plan(shared_database, tenant)
    _discard(shared_database, tenant, "a test order")
    (result,) = run_letters(shared_database, NOTES, plan, plan.id).results
    assert (result.state, result.detail.startswith("discarded meanwhile by ")) == ("left alone", True)


def _discard(database: Database, tenant: Tenant, reason: str) -> None:
    with database.connection() as connection:
        plan = plan_discard(connection, [tenant], reason)
    run = run_letters(database, NOTES, plan, plan.id)
    assert run.count("discarded") == len(plan.letters)


def test_a_discarded_letter_keeps_who_and_why_and_does_not_come_back(shared_database: Database, tenant: Tenant) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    with shared_database.connection() as connection, pytest.raises(UsageError, match="needs a reason"):
        plan_discard(connection, [tenant], " ")
    _discard(shared_database, tenant, "a test order")
    detail = show_dead_letter(shared_database, tenant, 1)
    assert (detail.status, detail.reason, bool(detail.resolved_by)) == ("discarded", "a test order", True)
    _mend(shared_database, tenant)
    _run(shared_database, tenant, "DELETE FROM erpkit_checkpoints")  # the events are read a second time
    dispatch(shared_database, tenant, NOTES)
    assert (_noted(shared_database, tenant), _open(shared_database, tenant)) == ([], [])


def test_a_handler_that_kills_its_connection_fails_its_own_letter_only(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"), Noted(2, "arsenic"), Noted(3, "arsenic"))
    _mend(shared_database, tenant)

    def kill(event: Noted, context: Context) -> None:
        _note(event, context)
        if event.number == 2:
            with psycopg.connect(shared_database.conninfo, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [context.connection.info.backend_pid])
            context.connection.execute("SELECT 1")

    plan = _plan(shared_database, tenant)
    run = run_letters(shared_database, _registry(kill), plan, plan.id)
    assert [(r.offset, r.state) for r in run.results] == [(1, "handled"), (2, "failed"), (3, "handled")]
    assert "the connection was lost" in run.failed[0].detail
    assert _noted(shared_database, tenant) == ["noted 1", "noted 3"]
    plan = _plan(shared_database, tenant)
    assert [r.state for r in run_letters(shared_database, NOTES, plan, plan.id).results] == ["handled"]


def test_a_payload_that_no_longer_decodes_fails_again_and_can_be_discarded(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    _run(shared_database, tenant, """UPDATE erpkit_events SET payload = '{"number": "many"}'""")
    plan = _plan(shared_database, tenant)
    (result,) = run_letters(shared_database, NOTES, plan, plan.id).results
    assert result.detail.startswith("PayloadError: Noted.number")
    _discard(shared_database, tenant, "written by a broken release")
    assert _open(shared_database, tenant) == []


def test_a_letter_whose_event_is_not_in_the_log_any_more_fails_by_name(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    _run(shared_database, tenant, "DELETE FROM erpkit_events")
    assert show_dead_letter(shared_database, tenant, 1).metadata is None
    plan = _plan(shared_database, tenant)
    assert run_letters(shared_database, NOTES, plan, plan.id).failed[0].detail == "the event is not in the log any more"


def test_a_letter_is_shown_without_its_payload_unless_that_is_asked_for(
    shared_database: Database, tenant: Tenant
) -> None:
    (uuid,) = _publish(shared_database, tenant, Noted(1, "arsenic"))
    hidden = show_dead_letter(shared_database, tenant, 1)
    assert (hidden.letter.uuid, hidden.status, hidden.payload, hidden.metadata) == (uuid, "open", None, {})
    assert "arsenic" not in repr(hidden).replace(hidden.letter.error, "")
    assert show_dead_letter(shared_database, tenant, 1, payload=True).payload == {"number": 1, "poison": "arsenic"}
    with pytest.raises(UsageError, match=f"tenant {tenant.slug}: there is no dead letter of x.y at offset 1"):
        show_dead_letter(shared_database, tenant, 1, "x.y")


def test_the_fleet_is_counted_in_one_query(
    shared_database: Database, tenant: Tenant, migrations: tuple[Migration, ...]
) -> None:
    other = create_tenant(shared_database, migrations, next(_slugs))
    _publish(shared_database, tenant, *(Noted(number, "arsenic") for number in range(3)))
    _publish(shared_database, other, Noted(4, "arsenic"), Noted(5, "lead"))
    with shared_database.connection() as connection:
        counts = count_dead_letters(connection, [tenant, other])
        assert count_queries(connection, lambda: count_dead_letters(connection, [tenant, other])) == 2
    assert sum_counts(counts, "tenant") == {tenant.slug: 3, other.slug: 2}
    assert sum_counts(counts, "cause") == {"ValueError: arsenic in number …": 4, "ValueError: lead in number …": 1}


def test_tenants_that_are_not_active_or_behind_are_left_out_and_named(
    shared_database: Database, tenant: Tenant
) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    with shared_database.connection() as connection:
        connection.execute(f"ALTER TABLE {tenant.schema}.erpkit_parked RENAME TO erpkit_parked_away")
        behind = plan_retry(connection, [tenant], NOTES)
        connection.execute(f"ALTER TABLE {tenant.schema}.erpkit_parked_away RENAME TO erpkit_parked")
        away = plan_retry(connection, [set_status(connection, tenant.slug, "suspended")], NOTES)
    assert "erpkit migrate up" in behind.left_out[tenant.slug]
    assert (behind.is_empty, away.is_empty, dict(away.left_out)) == (True, True, {tenant.slug: "suspended"})


def test_a_plan_of_letters_that_are_gone_says_so(shared_database: Database, tenant: Tenant) -> None:
    _publish(shared_database, tenant, Noted(1, "arsenic"))
    plan = _plan(shared_database, tenant, LetterSelection(uuids=(uuid4(),)))
    assert plan.is_empty
    plan = _plan(shared_database, tenant)
    _run(shared_database, tenant, "DELETE FROM erpkit_dead_letters")
    assert [(r.state, r.detail) for r in run_letters(shared_database, NOTES, plan, plan.id).results] == [
        ("left alone", "it no longer exists")
    ]
