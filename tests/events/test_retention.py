"""Pruning: what is older than declared goes, what somebody needs stays, and nobody waits for it."""

import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import UsageError
from erpkit.events import Context, Message, append, consumer_groups, dispatch
from erpkit.events import retention as module
from erpkit.events.dispatchers import audit_handled
from erpkit.events.retention import Pruned, PrunePlan, Retention, plan_prune, prune
from erpkit.migrations import read_migrations
from erpkit.modules import EventHandler, Module, Registry
from erpkit.plan import Work
from erpkit.sample.demo import Planted
from erpkit.tenants import create_tenant
from tests.command import erpkit, refused
from tests.events.test_worker import Noted


class Told:
    """Another event."""


def _note(event: Noted, context: Context) -> None:
    if event.number < 0:
        raise ValueError("below zero")


ERP = Registry.of(
    [Module("notes", publishes=(Noted, Told), subscribes=(EventHandler("notes.on_noted", Noted, _note),))]
)
EVERYTHING = Retention.of(["events=30d", "inbox=30d", "replays=30d"])


@pytest.fixture
def acme(database: Database) -> Tenant:
    return create_tenant(database, read_migrations([]), "acme")


def _append(database: Database, tenant: Tenant, *numbers: int, days: int = 60, topic: str = "notes.Noted") -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message(topic, {"number": number}) for number in numbers])
        connection.execute(
            "UPDATE erpkit_events SET recorded_at = now() - make_interval(days => %s) WHERE recorded_at > now() - interval '1 hour'",
            [days],
        )


def _age(database: Database, tenant: Tenant) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        connection.execute("UPDATE erpkit_inbox SET handled_at = now() - interval '60 days'")


def _plan(database: Database, *tenants: Tenant, retention: Retention = EVERYTHING, forwards: bool = False) -> PrunePlan:
    with database.connection() as connection:
        return plan_prune(connection, tenants, retention, consumer_groups(ERP), forwards=forwards)


def _prune(database: Database, *tenants: Tenant, **options: Any) -> Pruned:
    return prune(database, _plan(database, *tenants, **options), Work())


def _left(database: Database, tenant: Tenant) -> list[int]:
    with database.tenant_transaction(tenant) as connection:
        rows = connection.execute("SELECT (payload->>'number')::int FROM erpkit_events ORDER BY \"offset\"").fetchall()
    return [number for (number,) in rows]


def test_old_events_that_are_handled_go_with_their_inbox_rows_and_young_ones_stay(
    database: Database, acme: Tenant
) -> None:
    _append(database, acme, 1, 2, 3)
    dispatch(database, acme, ERP)
    _age(database, acme)
    _append(database, acme, 4, days=10)
    dispatch(database, acme, ERP)
    result = _prune(database, acme)
    assert result.counts == {("acme", "events"): 3, ("acme", "inbox"): 3}
    assert _left(database, acme) == [4]
    with database.connection() as connection:
        (handled,) = audit_handled(connection, [acme], consumer_groups(ERP))
    assert (handled.events, handled.missing) == (1, 0)
    assert _plan(database, acme).size == 0


def test_an_inbox_may_be_kept_for_less_time_than_the_log_and_the_audit_finds_nothing_missing(
    database: Database, acme: Tenant
) -> None:
    _append(database, acme, 1, 2)
    dispatch(database, acme, ERP)
    _age(database, acme)
    assert _prune(database, acme, retention=Retention.of(["inbox=2w"])).counts == {("acme", "inbox"): 2}
    with database.connection() as connection:
        (handled,) = audit_handled(connection, [acme], consumer_groups(ERP))
    assert handled.missing == 0
    dispatch(database, acme, ERP)
    assert _left(database, acme) == [1, 2]


def test_what_a_checkpoint_a_letter_a_removed_handler_or_the_forwarder_needs_stays_and_is_named(
    database: Database, acme: Tenant
) -> None:
    _append(database, acme, 1, -2, 3)
    dispatch(database, acme, ERP)  # the second one is a dead letter now
    _append(database, acme, 4)
    (step,) = _plan(database, acme, retention=Retention.of(["events=30d"])).steps
    assert (step.rows, step.old, step.holders) == (2, 4, ("notes.on_noted", "dead letters of notes.on_noted"))
    _prune(database, acme)
    assert _left(database, acme) == [-2, 4]
    dispatch(database, acme, ERP)
    assert _plan(database, acme, forwards=True).steps[0].holders[0] == "the forwarder"
    with database.connection() as connection:
        connection.execute(f"INSERT INTO {acme.schema}.erpkit_checkpoints VALUES ('notes.removed', 3)")
    _prune(database, acme)
    assert _left(database, acme) == [-2, 4]
    with database.connection() as connection:
        connection.execute(f'UPDATE {acme.schema}.erpkit_checkpoints SET "offset" = 4')
    _prune(database, acme)
    assert _left(database, acme) == [-2]


def test_a_topic_that_nobody_handles_is_held_back_by_no_handler(database: Database, acme: Tenant) -> None:
    _append(database, acme, 1)
    _append(database, acme, 2, topic="notes.Told")
    assert _prune(database, acme).counts == {("acme", "events"): 1}
    assert _left(database, acme) == [1]


def test_events_of_an_unfinished_replay_stay_until_the_replay_itself_goes(database: Database, acme: Tenant) -> None:
    _append(database, acme, 1, 2)
    dispatch(database, acme, ERP)
    with database.connection() as connection:
        connection.execute(
            f"INSERT INTO {acme.schema}.erpkit_replays (replay_id, plan_id, selection, handlers, requested_by, state, last_offset, "
            "until, started_at) VALUES (gen_random_uuid(), 'x', '{}', '{}', 'ann', 'cancelled', 1, 2, now() - interval '20 days')"
        )
    _prune(database, acme)
    assert _left(database, acme) == [2]
    only_events = _plan(database, acme, retention=Retention.of(["events=30d"]))
    assert re.fullmatch(r"replay [0-9a-f-]{36}", only_events.steps[0].holders[0])
    assert _prune(database, acme, retention=Retention.of(["replays=1w"])).counts == {("acme", "replays"): 1}
    _prune(database, acme)
    assert _left(database, acme) == []


def test_nobody_waits_while_it_prunes_in_batches(
    database: Database, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    _append(database, acme, *range(95))
    dispatch(database, acme, ERP)
    _age(database, acme)
    batches: list[int] = []
    stop = threading.Event()

    def advance(rows: int) -> None:
        batches.append(rows)
        _append(database, acme, 100 + len(batches), days=0)
        with psycopg.connect(database.conninfo) as other:  # nothing of it is locked between two batches
            other.execute(
                f"LOCK TABLE {acme.schema}.erpkit_events, {acme.schema}.erpkit_inbox IN EXCLUSIVE MODE NOWAIT"
            )
        if len(batches) == 15:
            stop.set()

    plan = _plan(database, acme)
    prune(database, plan, Work(advance, stop))
    assert (len(batches), max(batches)) == (15, 10)
    again = _prune(database, acme)
    assert sum(batches) + sum(again.counts.values()) == plan.size == 190


def test_a_declaration_that_cannot_be_read_is_refused() -> None:
    for text in ("events", "events=10", "events=0d", "letters=10d", "events=-1d"):
        with pytest.raises(UsageError, match="is not a kind and an age: write it like"):
            Retention.of([text])
    for text in ("events=9999999999999d", "events=1001y"):
        with pytest.raises(UsageError, match=r"is longer than 1,000 years: leave it out"):
            Retention.of([text])
    limits = Retention.of(["events=2w", "inbox=1y"]).limits(datetime(2026, 3, 31, 15, 30, tzinfo=UTC))
    assert limits["events"] == datetime(2026, 3, 17, tzinfo=UTC)
    assert limits["events"] - limits["inbox"] == timedelta(days=351)


def test_the_command_plans_and_prunes_what_is_declared(
    erp: Planted, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    monkeypatch.delenv("ERPKIT_RETENTION", raising=False)
    refused(erpkit("events", "prune"), 2, "no retention is declared, so everything is kept")
    monkeypatch.setenv("ERPKIT_RETENTION", "events=1d, inbox=1d")
    with database.connection() as connection:
        for slug in erp.tenants:
            connection.execute(
                f"UPDATE tenant_{slug}.erpkit_events SET recorded_at = recorded_at - interval '9 days';"
                f"UPDATE tenant_{slug}.erpkit_inbox SET handled_at = handled_at - interval '9 days'"
            )
    dry = erpkit("events", "prune")
    assert "needed by dead letters of" in dry.stderr
    (plan,) = re.findall(r"--confirm (prune-\w{10})", dry.stderr)
    refused(erpkit("events", "prune", "--confirm", "prune-0000000000"), 2, "nothing was done")
    done = json.loads(erpkit("events", "prune", "--confirm", plan, "--json").stdout)
    assert {one["kind"] for one in done["pruned"]} == {"events", "inbox"}
    left = json.loads(erpkit("events", "list", erp.dead_letters, "--json").stdout)
    assert len(left) == 3  # its dead letters
