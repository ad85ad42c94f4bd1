"""Retries as handlers declare them, and outages, which make no dead letters."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from erpkit.database import Database, Tenant
from erpkit.events import Context, dispatch, handling, one_by_one
from erpkit.events.checkpoints import read_waiting
from erpkit.events.consumer import consumer_groups
from erpkit.events.health import read_event_lag
from erpkit.modules import EventHandler, Registry, Retry
from tests.events.small import Placed, do, done, erp_of, letters, make_tenant, publish, run


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database)


class Service:
    """A service that a handler calls: it refuses `bad` numbers, and all while it is `away`."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.away = False
        self.calls: Counter[int] = Counter()
        self.error: type[Exception] = ConnectionError

    def handle(self, event: Placed, context: Context) -> None:
        self.calls[event.number] += 1
        if self.away or event.number in self.bad:
            raise self.error(f"no answer for {event.number}")
        do(context.connection, event.number)

    def erp(self, retry: Retry | None = None, **more: object) -> Registry:
        return erp_of(EventHandler("shop.call", Placed, self.handle, retry=retry or Retry(), **more))  # type: ignore[arg-type]


def _wake(database: Database, tenant: Tenant) -> None:
    """Let the pause be over."""
    run(
        database,
        tenant,
        "UPDATE erpkit_checkpoints SET paused_until = now() - interval '1 s' WHERE paused_until IS NOT NULL",
    )


def test_an_outage_makes_no_dead_letters_and_the_handler_goes_on_by_itself(database: Database, acme: Tenant) -> None:
    service = Service()
    service.away = True
    registry = service.erp()
    publish(database, acme, *map(Placed, range(20)))
    dispatch(database, acme, registry)
    assert letters(database, acme) == []
    assert max(service.calls) == 4  # the fifth in a row that failed alike
    calls = service.calls.total()
    dispatch(database, acme, registry)
    assert service.calls.total() == calls  # it waits
    _wake(database, acme)
    dispatch(database, acme, registry)
    assert service.calls.total() == calls + 1  # one attempt, and it waits longer
    service.away = False
    _wake(database, acme)
    dispatch(database, acme, registry)
    assert [number for number, _ in done(database, acme)] == list(range(20))
    assert letters(database, acme) == []


def test_a_pause_shows_in_lag_and_the_worker_does_not_ask_meanwhile(database: Database, acme: Tenant) -> None:
    service = Service()
    service.away = True
    registry = service.erp()
    publish(database, acme, *map(Placed, range(9)))
    result = dispatch(database, acme, registry)
    assert result.paused == ("shop.call",)
    groups = consumer_groups(registry)
    with database.connection() as connection:
        lag = read_event_lag(connection, [acme], groups)
        assert read_waiting(connection, [acme], groups) == []
    (finding,) = lag.findings
    assert finding.problem == "shop.call pauses after failures: ConnectionError: no answer for 4"
    assert lag.groups[0].paused_until is not None
    assert lag.groups[0].paused_until > datetime.now(UTC)
    _wake(database, acme)
    with database.connection() as connection:
        assert read_waiting(connection, [acme], groups) == [(acme, "shop.call")]


def test_events_that_fail_for_different_causes_or_with_a_success_between_are_no_outage(
    database: Database, acme: Tenant
) -> None:
    service = Service(0, 1, 2, 3, 5, 6, 7, 8)
    publish(database, acme, *map(Placed, range(9)))
    result = dispatch(database, acme, service.erp())
    assert (result.handled, result.dead, result.paused) == (1, 8, ())


def test_a_run_of_bad_events_is_passed_at_the_third_pause(database: Database, acme: Tenant) -> None:
    service = Service(*range(7))
    registry = service.erp()
    publish(database, acme, *map(Placed, range(10)))
    for _ in range(4):
        dispatch(database, acme, registry)
        assert letters(database, acme) == [] or len(letters(database, acme)) == 7
        _wake(database, acme)
    assert [offset for offset, _ in letters(database, acme)] == [1, 2, 3, 4, 5, 6, 7]
    assert [number for number, _ in done(database, acme)] == [7, 8, 9]


@pytest.mark.parametrize("bad", [10, 37])
@pytest.mark.parametrize("effects", ["database", "outside"])
def test_a_run_of_bad_events_of_any_length_ends_in_dead_letters_once_one_behind_it_succeeds(
    database: Database, acme: Tenant, bad: int, effects: str
) -> None:
    service = Service(*range(bad))
    registry = service.erp(effects=effects, start="beginning")
    publish(database, acme, *map(Placed, range(bad + 3)))
    for _ in range(4 if bad == 10 else 7):  # at the third pause or the sixth
        dispatch(database, acme, registry)
        assert len(letters(database, acme)) in (0, bad)
        _wake(database, acme)
    assert [offset for offset, _ in letters(database, acme)] == list(range(1, bad + 1))
    assert [number for number, _ in done(database, acme)] == [bad, bad + 1, bad + 2]
    assert service.calls[bad] == 1


def test_bad_events_at_the_end_of_the_log_wait_until_one_behind_them_tells_that_there_is_no_outage(
    database: Database, acme: Tenant
) -> None:
    service = Service(*range(10))
    registry = service.erp()
    publish(database, acme, *map(Placed, range(10)))
    for _ in range(8):
        assert dispatch(database, acme, registry).paused == ("shop.call",)
        assert letters(database, acme) == []
        _wake(database, acme)
    publish(database, acme, Placed(10))
    for _ in range(3):
        dispatch(database, acme, registry)
        _wake(database, acme)
    assert len(letters(database, acme)) == 10
    assert [number for number, _ in done(database, acme)] == [10]


@pytest.mark.parametrize("effects", ["database", "outside"])
def test_an_attempt_behind_the_first_event_ends_after_a_while_and_makes_no_dead_letters(
    database: Database, acme: Tenant, effects: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (handling, one_by_one):
        monkeypatch.setattr(place, "WIDE_FOR", -1.0)
    service = Service(*range(10))
    registry = service.erp(effects=effects, start="beginning")
    publish(database, acme, *map(Placed, range(12)))
    for _ in range(8):
        assert dispatch(database, acme, registry).paused == ("shop.call",)
        assert letters(database, acme) == []
        assert max(service.calls) == 4
        _wake(database, acme)


def test_events_that_wait_seconds_between_attempts_are_tried_once_each_while_an_outage_lasts(
    database: Database, acme: Tenant
) -> None:
    service = Service(*range(12))
    registry = service.erp(Retry(attempts=2, pause=30))
    publish(database, acme, *map(Placed, range(14)))
    for _ in range(20):
        dispatch(database, acme, registry)
        _wake(database, acme)
    assert len(letters(database, acme)) == 12
    assert [number for number, _ in done(database, acme)] == [12, 13]


def test_a_run_of_bad_events_longer_than_a_batch_is_passed_too(database: Database, acme: Tenant) -> None:
    service = Service(*range(25))
    registry = service.erp()
    publish(database, acme, *map(Placed, range(27)))
    for _ in range(12):
        dispatch(database, acme, registry, batch=8)
        _wake(database, acme)
    assert len(letters(database, acme)) == 25
    assert [number for number, _ in done(database, acme)] == [25, 26]


def test_an_outage_that_lasts_makes_no_dead_letters_at_any_pause(database: Database, acme: Tenant) -> None:
    service = Service()
    service.away = True
    registry = service.erp()
    publish(database, acme, *map(Placed, range(7)))
    for _ in range(8):
        dispatch(database, acme, registry)
        assert letters(database, acme) == []
        _wake(database, acme)


def test_a_letter_that_an_outage_takes_back_frees_what_was_parked_in_order(database: Database, acme: Tenant) -> None:
    service = Service()
    service.away = True
    registry = service.erp(ordered_by=lambda event: str(event.number % 6))
    publish(database, acme, *map(Placed, range(24)))
    dispatch(database, acme, registry)
    service.away = False
    _wake(database, acme)
    dispatch(database, acme, registry)
    assert [number for number, _ in done(database, acme)] == list(range(24))
    assert run(database, acme, "SELECT count(*) FROM erpkit_parked") == [(0,)]


def test_a_handler_is_tried_as_often_as_it_declares_and_not_at_all_for_other_errors(
    database: Database, acme: Tenant
) -> None:
    service = Service(1)
    publish(database, acme, Placed(1))
    dispatch(database, acme, service.erp(Retry(attempts=5, pause=0, on=(ConnectionError,))))
    assert service.calls[1] == 6  # once in the batch
    other = Service(2)
    other.error = KeyError
    publish(database, acme, Placed(2))
    dispatch(database, acme, other.erp(Retry(attempts=5, pause=0, on=(ConnectionError,))))
    assert other.calls[2] == 2
    assert len(letters(database, acme)) == 2


def test_long_pauses_pass_outside_the_transaction_and_count_over_dispatches(database: Database, acme: Tenant) -> None:
    service = Service(1)
    registry = service.erp(Retry(attempts=3, pause=30))
    publish(database, acme, Placed(1), Placed(2))
    for tries in (1, 2):
        assert dispatch(database, acme, registry).paused == ("shop.call",)
        assert run(database, acme, "SELECT tries FROM erpkit_checkpoints") == [(tries,)]
        assert letters(database, acme) == []
        assert done(database, acme) == []
        _wake(database, acme)
    dispatch(database, acme, registry)
    assert [offset for offset, _ in letters(database, acme)] == [1]
    assert done(database, acme) == [(2, "")]


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"pause": -1}, {"pause": 5, "longest": 1}, {"pause_after": 1}])
def test_a_retry_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Retry: "):
        Retry(**wrong)  # type: ignore[arg-type]
