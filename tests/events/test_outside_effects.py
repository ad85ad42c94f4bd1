"""Handlers with effects outside the database: one event at a time, an idempotency key, and kills between effect and commit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import ModuleError, UsageError
from erpkit.events import (
    Consumer,
    Context,
    HandlerChoice,
    ReplayRun,
    Selection,
    Worker,
    WorkerOptions,
    dispatch,
    list_replays,
    plan_replay,
    plan_resume,
    run_replay,
)
from erpkit.events.dispatch import dispatch_batch
from erpkit.events.handling import Dispatched
from erpkit.modules import EventHandler, Module, Registry, Retry, check_modules
from erpkit.tenants import list_tenants
from tests.benchmarks.kill_mailer import kill_often
from tests.events.small import Cancelled, Placed, do, done, erp_of, letters, make_tenant, publish, run
from tests.processes import start, wait_until_released


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database)


class Post:
    """A post office that handlers mail by; what is sent is sent, whatever becomes of the transaction."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.sent: list[int] = []
        self.keys: list[str] = []
        self.in_one: list[object] = []

    def mail(self, event: Placed, context: Context) -> None:
        row = context.connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        self.in_one.append(row)
        self.sent.append(event.number)
        self.keys.append(context.idempotency_key)
        do(context.connection, event.number)
        if event.number in self.bad:
            raise ValueError(f"{event.number} has no address")
        context.publish(Cancelled(event.number))

    def erp(self, **more: object) -> Registry:
        options: dict[str, object] = {"effects": "outside", "start": "beginning", **more}
        return erp_of(EventHandler("shop.mail", Placed, self.mail, **options))  # type: ignore[arg-type]


def test_a_bad_event_lets_no_other_effect_happen_twice(database: Database, acme: Tenant) -> None:
    post = Post(150)
    publish(database, acme, *map(Placed, range(300)))
    result = dispatch(database, acme, post.erp())
    assert (result.handled, result.dead) == (299, 1)
    assert [number for number in post.sent if number != 150] == [n for n in range(300) if n != 150]
    assert post.sent.count(150) == 3
    assert len(set(post.in_one)) == 300  # a transaction each
    assert len(done(database, acme)) == 299
    assert run(database, acme, "SELECT count(*) FROM erpkit_events WHERE topic = 'shop.Cancelled'") == [(299,)]
    assert letters(database, acme) == [(151, "ValueError: 150 has no address")]


def test_the_idempotency_key_is_the_same_for_each_attempt_and_no_other_event(database: Database, acme: Tenant) -> None:
    post = Post(1)
    publish(database, acme, Placed(1), Placed(2))
    dispatch(database, acme, post.erp())
    first, again, third, other = post.keys
    assert first == again == third != other
    assert first.endswith(":shop.mail")


def test_a_handler_with_outside_effects_must_say_where_it_starts() -> None:
    module = Module(
        "shop", publishes=(Placed,), subscribes=(EventHandler("shop.mail", Placed, print, effects="outside"),)
    )
    with pytest.raises(
        ModuleError, match=r"shop.mail has effects outside the database and does not say where it starts"
    ):
        Registry.of([module])
    (finding,) = check_modules([module]).findings
    assert (finding.kind, finding.severity) == ("no start", "error")


def test_events_come_in_order_and_a_dead_letter_holds_back_its_aggregate(database: Database, acme: Tenant) -> None:
    post = Post(3)
    registry = post.erp(ordered_by=lambda event: str(event.number % 3))
    publish(database, acme, *map(Placed, range(9)))
    result = dispatch(database, acme, registry)
    assert (result.handled, result.dead, result.parked) == (7, 1, 1)
    post.bad.clear()
    run(database, acme, "UPDATE erpkit_dead_letters SET status = 'resolved'")
    assert dispatch(database, acme, registry).handled == 1
    assert [n for n in post.sent if n != 3] == [0, 1, 2, 4, 5, 7, 8, 6]


def test_an_outage_pauses_a_handler_with_outside_effects_too(database: Database, acme: Tenant) -> None:
    post = Post(*range(20))
    registry = post.erp(retry=Retry(attempts=2, pause=0))
    publish(database, acme, *map(Placed, range(20)))
    assert dispatch(database, acme, registry).paused == ("shop.mail",)
    assert letters(database, acme) == []
    assert max(post.sent) == 4
    post.bad.clear()
    run(database, acme, "UPDATE erpkit_checkpoints SET paused_until = now()")
    assert dispatch(database, acme, registry).handled == 20


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN"])
def test_a_handler_that_ends_its_transaction_becomes_a_letter_and_no_other_is_repeated(
    database: Database, acme: Tenant, ending: str
) -> None:
    post = Post()

    def mail(event: Placed, context: Context) -> None:
        post.mail(event, context)
        if event.number == 2:
            context.connection.execute(ending.encode())

    publish(database, acme, *map(Placed, range(5)))
    dispatch(database, acme, erp_of(EventHandler("shop.mail", Placed, mail, effects="outside", start="beginning")))
    assert post.sent == [0, 1, 2, 3, 4]
    ((offset, error),) = letters(database, acme)
    assert (offset, "it ended the transaction itself" in error) == (3, True)


def test_a_turn_ends_after_a_while_so_that_others_get_theirs(database: Database, acme: Tenant) -> None:
    def slow(event: Placed, context: Context) -> None:
        context.connection.execute("SELECT pg_sleep(0.6)")

    publish(database, acme, *map(Placed, range(9)))
    registry = erp_of(EventHandler("shop.slow", Placed, slow, effects="outside", start="beginning"))
    assert dispatch_batch(database, Consumer(acme, registry, registry.event_handlers["shop.slow"])) == Dispatched(2)


def test_killed_between_effect_and_commit_an_effect_happens_once_more_and_no_other_does(
    database: Database, tmp_path: Path
) -> None:
    killed = kill_often(database, tmp_path / "sent", events=600, kills=8)
    assert killed >= 3


def _hang_on_two(event: Placed, context: Context) -> None:
    do(context.connection, event.number, context.idempotency_key[:8])
    with Path(os.environ["SENT"]).open("a") as sent:
        sent.write(f"{event.number} ")
    if event.number == 2:
        time.sleep(600)


HANGING = EventHandler("shop.hang", Placed, _hang_on_two, effects="outside", start="beginning")


def _serve_hanging(conninfo: str, sent: str) -> None:
    os.environ["SENT"] = sent
    Worker(Database(conninfo, "x"), erp_of(HANGING), list_tenants, str, WorkerOptions(limit=2)).run()


def test_a_handler_that_hangs_three_times_on_an_event_is_told_in_a_letter_and_no_other_is_repeated(
    database: Database, acme: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(database, acme, *map(Placed, range(5)))
    sent = tmp_path / "sent"
    monkeypatch.setenv("SENT", str(sent))
    for _ in range(4):  # the first time in turn, then as a suspect
        worker = start(_serve_hanging, database.conninfo, str(sent))
        worker.join(60)
        assert worker.exitcode == 1, sent.read_text()
        wait_until_released(database.conninfo)
    assert run(database, acme, "SELECT attempts FROM erpkit_checkpoints") == [(3,)], sent.read_text()
    dispatch(database, acme, erp_of(HANGING))
    ((offset, error),) = letters(database, acme)
    assert (offset, "3 times with it in flight" in error) == (3, True)
    assert sent.read_text().split() == ["0", "1", "2", "2", "2", "2", "3", "4"]


def _replay(
    database: Database, tenant: Tenant, registry: Registry, *names: str, resume: UUID | None = None
) -> ReplayRun:
    with database.connection() as connection:
        if resume is None:
            plan = plan_replay(connection, [tenant], registry, Selection(), HandlerChoice(names, names))
        else:
            plan = plan_resume(connection, [tenant], registry, resume)
    return run_replay(database, registry, plan, plan.id)


def test_a_replay_hands_one_event_at_a_time_to_a_handler_with_outside_effects_under_its_key(
    database: Database, acme: Tenant
) -> None:
    post = Post()
    registry = post.erp()
    publish(database, acme, *map(Placed, range(5)))
    dispatch(database, acme, registry)
    first, post.keys, post.in_one = post.keys, [], []
    run(database, acme, "DELETE FROM done")
    assert _replay(database, acme, registry, "shop.mail").handled == 5
    assert post.keys == first
    assert len(set(post.in_one)) == 5  # a transaction each


def test_a_replay_that_is_ended_between_effect_and_commit_repeats_that_one_effect_and_no_other(
    database: Database, acme: Tenant
) -> None:
    post, ends = Post(), [3]

    def mail(event: Placed, context: Context) -> None:
        post.mail(event, context)
        if event.number in ends:
            ends.clear()
            raise KeyboardInterrupt

    publish(database, acme, *map(Placed, range(6)))
    registry = erp_of(EventHandler("shop.mail", Placed, mail, effects="outside", start="now"))
    with pytest.raises(KeyboardInterrupt):
        _replay(database, acme, registry, "shop.mail")
    with database.connection() as connection:
        (record,) = list_replays(connection, [acme])
    _replay(database, acme, registry, "shop.mail", resume=record.replay_id)
    assert post.sent == [0, 1, 2, 3, 3, 4, 5]


def test_a_replay_refuses_two_handlers_with_outside_effects_on_one_topic(database: Database, acme: Tenant) -> None:
    post = Post()
    options: dict[str, Any] = {"effects": "outside", "start": "now"}
    registry = erp_of(
        EventHandler("shop.mail", Placed, post.mail, **options), EventHandler("shop.pay", Placed, post.mail, **options)
    )
    publish(database, acme, Placed(1))
    with pytest.raises(UsageError, match=r"shop.mail and shop.pay both have effects outside.*one after the other"):
        _replay(database, acme, registry, "shop.mail", "shop.pay")


def test_a_handler_with_outside_effects_is_replayed_only_by_name_whatever_it_declares(
    database: Database, acme: Tenant
) -> None:
    publish(database, acme, Placed(1))
    with database.connection() as connection:
        plan = plan_replay(connection, [acme], Post().erp(replayable=True), Selection())
    assert (plan.is_empty, plan.left_out) == (True, {"shop.mail": "has side effects"})
