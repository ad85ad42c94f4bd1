"""Order per aggregate: later events wait behind a dead letter, and come after it once it is out of the way."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random

import pytest

from erpkit.database import Database, Tenant
from erpkit.events import (
    Consumer,
    Context,
    HandlerChoice,
    LetterRun,
    LetterSelection,
    Message,
    Selection,
    Worker,
    WorkerOptions,
    WorkerReport,
    append,
    dispatch,
    encode,
    hold_back,
    list_dead_letters,
    list_parked,
    plan_discard,
    plan_replay,
    plan_retry,
    read_events,
    run_letters,
    run_replay,
    show_dead_letter,
)
from erpkit.events.dead_letters import add_dead_letter
from erpkit.migrations import Migration
from erpkit.modules import EventHandler, Module, Registry, Upcaster
from erpkit.tenants import create_tenant
from tests.conftest import count_queries

_slugs = (f"parking_{number}" for number in count())


@dataclass(frozen=True)
class Step:
    account: str
    number: int


BROKEN: dict[str, set[tuple[str, int]]] = defaultdict(set)  # by tenant: what the handler fails on at present


def _take(event: Step, context: Context) -> None:
    if (event.account, event.number) in BROKEN[context.tenant.slug]:
        raise ValueError(f"step {event.number}")
    context.connection.execute("INSERT INTO steps (account, number) VALUES (%s, %s)", [event.account, event.number])


HANDLER = EventHandler("steps.on_step", Step, _take, ordered_by=lambda event: event.account)
STEPS = Registry.of([Module("steps", publishes=(Step,), subscribes=(HANDLER,))])


@pytest.fixture
def tenant(shared_database: Database, migrations: tuple[Migration, ...]) -> Iterator[Tenant]:
    tenant = create_tenant(shared_database, migrations, next(_slugs))
    with shared_database.connection() as connection:
        connection.execute(f"CREATE TABLE {tenant.schema}.steps (id bigserial, account text, number integer)")
    yield tenant
    BROKEN.clear()


def _publish(database: Database, tenant: Tenant, *steps: tuple[str, int]) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("steps.Step", encode(Step(*step))) for step in steps])


def _taken(database: Database, tenant: Tenant) -> dict[str, list[int]]:
    steps: dict[str, list[int]] = defaultdict(list)
    with database.tenant_transaction(tenant) as connection:
        for account, number in connection.execute("SELECT account, number FROM steps ORDER BY id"):
            steps[account].append(number)
    return dict(steps)


def _state(database: Database, tenant: Tenant) -> tuple[list[int], dict[str, int]]:
    """Return the offsets of the open dead letters, and how many events are parked by account."""
    with database.connection() as connection:
        letters = [letter.offset for letter in list_dead_letters(connection, [tenant])]
        return letters, {one.aggregate: one.events for one in list_parked(connection, [tenant])}


def _retry(database: Database, tenant: Tenant, *offsets: int) -> LetterRun:
    with database.connection() as connection:
        plan = plan_retry(connection, [tenant], STEPS, LetterSelection(offsets=offsets))
    return run_letters(database, STEPS, plan, plan.id)


def test_later_events_of_a_blocked_aggregate_are_parked_and_others_are_not(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1), ("b", 1), ("a", 2))
    assert dispatch(shared_database, tenant, STEPS).parked == 1  # in the batch of the dead letter
    _publish(shared_database, tenant, ("b", 2), ("a", 3))
    result = dispatch(shared_database, tenant, STEPS)
    assert (result.handled, result.dead, result.parked) == (1, 0, 1)  # and in later ones
    assert _taken(shared_database, tenant) == {"b": [1, 2]}
    assert _state(shared_database, tenant) == ([1], {"a": 2})
    assert show_dead_letter(shared_database, tenant, 1).parked == 2


def test_a_retry_with_success_handles_what_was_parked_in_its_order(shared_database: Database, tenant: Tenant) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, *(("a", number) for number in range(1, 6)))
    dispatch(shared_database, tenant, STEPS)
    BROKEN.clear()
    run = _retry(shared_database, tenant)
    assert [(r.offset, r.state, r.was_parked) for r in run.results] == [
        (1, "handled", False), *((offset, "handled", True) for offset in range(2, 6)),
    ]  # fmt: skip
    assert _taken(shared_database, tenant) == {"a": [1, 2, 3, 4, 5]}
    _publish(shared_database, tenant, ("a", 6))
    assert dispatch(shared_database, tenant, STEPS).parked == 0  # new ones no longer park


def test_a_parked_event_that_fails_blocks_those_behind_it_in_turn(shared_database: Database, tenant: Tenant) -> None:
    BROKEN[tenant.slug] = {("a", 1), ("a", 3)}
    _publish(shared_database, tenant, *(("a", number) for number in range(1, 6)))
    dispatch(shared_database, tenant, STEPS)
    BROKEN[tenant.slug] = {("a", 3)}
    run = _retry(shared_database, tenant)
    assert [(r.offset, r.state) for r in run.results] == [(1, "handled"), (2, "handled"), (3, "failed")]
    assert _state(shared_database, tenant) == ([3], {"a": 2})
    BROKEN.clear()
    _retry(shared_database, tenant)
    assert _taken(shared_database, tenant) == {"a": [1, 2, 3, 4, 5]}


def test_discarding_a_dead_letter_lets_the_parked_ones_go(shared_database: Database, tenant: Tenant) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1), ("a", 2))
    dispatch(shared_database, tenant, STEPS)
    with shared_database.connection() as connection:
        plan = plan_discard(connection, [tenant], "a test")
    assert plan.parked == 1
    run = run_letters(shared_database, STEPS, plan, plan.id)
    assert (run.count("discarded"), run.count("handled", was_parked=True)) == (1, 1)
    assert _taken(shared_database, tenant) == {"a": [2]}


def test_the_next_dispatch_frees_what_a_letter_closed_by_other_means_held_back(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1), ("a", 2))
    dispatch(shared_database, tenant, STEPS)
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        connection.execute("UPDATE erpkit_dead_letters SET status = 'resolved'")
    assert dispatch(shared_database, tenant, STEPS).handled == 1  # though nothing new has come
    _publish(shared_database, tenant, ("a", 3))
    dispatch(shared_database, tenant, STEPS)
    assert _taken(shared_database, tenant) == {"a": [2, 3]}


def test_a_worker_frees_what_a_replay_has_finished_though_nothing_new_comes(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1), ("a", 2))
    dispatch(shared_database, tenant, STEPS)
    BROKEN.clear()
    reports: list[WorkerReport] = []

    def stop_when_freed(report: WorkerReport) -> None:
        reports.append(report)
        if report.handled or len(reports) > 100:
            worker.stop()

    worker = Worker(
        shared_database, STEPS, lambda _: [tenant], stop_when_freed, WorkerOptions(poll=0.1, report_every=0.1)
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    with shared_database.connection() as connection:
        plan = plan_replay(
            connection, [tenant], STEPS, Selection(last_offset=1), HandlerChoice(side_effects=[HANDLER.name])
        )
    assert run_replay(shared_database, STEPS, plan, plan.id).resolved == 1
    thread.join()
    assert _taken(shared_database, tenant) == {"a": [1, 2]}
    assert _state(shared_database, tenant) == ([], {})


def test_a_letter_waits_for_an_earlier_one_of_its_aggregate(shared_database: Database, tenant: Tenant) -> None:
    BROKEN[tenant.slug] = {("a", 1), ("a", 2)}
    _publish(shared_database, tenant, ("a", 1), ("a", 2))
    dispatch(shared_database, tenant, STEPS)
    with shared_database.tenant_transaction(tenant, write=True) as connection:  # as before `ordered_by` was declared
        connection.execute("DELETE FROM erpkit_parked")
        connection.execute(
            'INSERT INTO erpkit_dead_letters (handler, uuid, "offset", topic, error, attempts, aggregate) '
            "SELECT 'steps.on_step', uuid, \"offset\", topic, 'ValueError: 2', 3, 'a' FROM erpkit_events WHERE \"offset\" = 2"
        )
    BROKEN.clear()
    (result,) = _retry(shared_database, tenant, 2).results
    assert (result.state, result.detail) == ("left alone", "offset 1 of the same aggregate comes first")
    _retry(shared_database, tenant)
    assert _taken(shared_database, tenant) == {"a": [1, 2]}


def test_a_thousand_events_with_random_faults_keep_the_order_of_each_aggregate(
    shared_database: Database, tenant: Tenant
) -> None:
    """Letters are retried in random order, in random handfuls, while new events arrive and some faults come back."""
    random = Random(5)
    steps = [(f"account {random.randrange(40)}", number) for number in range(1000)]
    BROKEN[tenant.slug] = set(random.sample(steps, 60))
    for start in range(0, 1000, 250):
        _publish(shared_database, tenant, *steps[start : start + 250])
        dispatch(shared_database, tenant, STEPS, batch=100)
        letters, parked = _state(shared_database, tenant)
        assert letters
        assert parked
        _retry_some(shared_database, tenant, random, letters)
    while letters := _state(shared_database, tenant)[0]:
        _retry_some(shared_database, tenant, random, letters)
    assert _state(shared_database, tenant) == ([], {})
    expected: dict[str, list[int]] = defaultdict(list)
    for account, number in steps:
        expected[account].append(number)
    assert _taken(shared_database, tenant) == expected


def _retry_some(database: Database, tenant: Tenant, random: Random, letters: list[int]) -> None:
    broken = sorted(BROKEN[tenant.slug])
    BROKEN[tenant.slug] = set(random.sample(broken, len(broken) * 2 // 3))
    _retry(database, tenant, *random.sample(letters, max(1, len(letters) // 2)))


def test_dispatchers_and_retries_at_once_keep_the_order(shared_database: Database, tenant: Tenant) -> None:
    random = Random(6)
    steps = [(f"account {random.randrange(5)}", number) for number in range(300)]
    BROKEN[tenant.slug] = set(random.sample(steps, 10))
    done = threading.Event()

    def retry() -> None:
        while not done.is_set():
            _retry(shared_database, tenant)

    thread = threading.Thread(target=retry)
    thread.start()
    for start in range(0, 300, 20):
        _publish(shared_database, tenant, *steps[start : start + 20])
        dispatch(shared_database, tenant, STEPS, batch=10)
        if start == 200:
            BROKEN.clear()
    done.set()
    thread.join()
    dispatch(shared_database, tenant, STEPS)
    _retry(shared_database, tenant)
    dispatch(shared_database, tenant, STEPS)
    taken = _taken(shared_database, tenant)
    assert _state(shared_database, tenant) == ([], {})
    assert sum(map(len, taken.values())) == 300
    for numbers in taken.values():
        assert numbers == sorted(numbers)


def test_a_payload_that_does_not_decode_blocks_nobody(shared_database: Database, tenant: Tenant) -> None:
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("steps.Step", {"account": "a", "number": "first"})])
    _publish(shared_database, tenant, ("a", 2))
    result = dispatch(shared_database, tenant, STEPS)
    assert (result.handled, result.dead, result.parked) == (1, 1, 0)
    assert show_dead_letter(shared_database, tenant, 1).aggregate is None


def test_a_batch_costs_one_look_up_while_nothing_is_blocked_and_none_without_a_key(
    shared_database: Database, tenant: Tenant
) -> None:
    unordered = EventHandler("steps.other", Step, _take)
    messages = [Message("steps.Step", encode(Step("a", 1)), offset=1)]
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        assert (
            count_queries(connection, lambda: hold_back(connection, Consumer(tenant, STEPS, HANDLER), messages)) == 2
        )  # a lock, a look-up
        assert (
            count_queries(connection, lambda: hold_back(connection, Consumer(tenant, STEPS, unordered), messages)) == 0
        )
        assert hold_back(connection, Consumer(tenant, STEPS, HANDLER), messages) == messages


def test_an_event_does_not_overtake_those_that_are_still_parked_after_a_batch_was_freed(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, *(("a", number) for number in range(1, 521)))
    assert dispatch(shared_database, tenant, STEPS, batch=600).parked == 519  # more than are freed at once
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        connection.execute("UPDATE erpkit_dead_letters SET status = 'resolved'")
    _publish(shared_database, tenant, ("a", 521))
    dispatch(shared_database, tenant, STEPS)
    assert _taken(shared_database, tenant) == {"a": list(range(2, 522))}


def test_a_retry_waits_for_a_dispatcher_that_is_parking_and_frees_what_it_parked(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1))
    dispatch(shared_database, tenant, STEPS)
    BROKEN.clear()
    _publish(shared_database, tenant, ("a", 2))
    thread = threading.Thread(target=_retry, args=(shared_database, tenant))
    with shared_database.tenant_transaction(tenant, write=True) as dispatcher:
        assert (
            hold_back(dispatcher, Consumer(tenant, STEPS, HANDLER), read_events(dispatcher, "steps.Step", 1, 10)) == []
        )
        thread.start()
        with shared_database.connection() as connection:
            while thread.is_alive() and not connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                pass
        assert thread.is_alive()
    thread.join()
    assert _taken(shared_database, tenant) == {"a": [1, 2]}


def test_an_event_that_a_broker_brought_waits_by_its_place_in_the_log(
    shared_database: Database, tenant: Tenant
) -> None:
    BROKEN[tenant.slug] = {("a", 1)}
    _publish(shared_database, tenant, ("a", 1), ("a", 2))
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        first, second = (replace(m, offset=None) for m in read_events(connection, "steps.Step", 0, 10))
        add_dead_letter(connection, Consumer(tenant, STEPS, HANDLER), first, ValueError("step 1"), 3)
        assert hold_back(connection, Consumer(tenant, STEPS, HANDLER), [first, second]) == [
            first
        ]  # one does not wait for itself
    assert _state(shared_database, tenant) == ([1], {"a": 1})


def test_an_event_of_an_older_version_has_its_key_too(shared_database: Database, tenant: Tenant) -> None:
    old = Upcaster(Step, 1, lambda payload: {"account": payload["customer"], "number": payload["number"]})
    registry = Registry.of([Module("steps", publishes=(Step,), subscribes=(HANDLER,), upcasters=(old,))])
    BROKEN[tenant.slug] = {("a", 1)}
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("steps.Step", {"customer": "a", "number": number}) for number in (1, 2)])
    assert dispatch(shared_database, tenant, registry).parked == 1
