"""A rate limit, by the seconds that it tells to wait."""

import pytest

from erpkit.events.middleware import RateLimit


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("erpkit.events.middleware.time.monotonic", lambda: now[0])
    return now


def test_messages_are_spread_evenly_and_the_first_of_a_burst_go_at_once(clock: list[float]) -> None:
    limit = RateLimit(10, burst=1)
    assert [round(limit.reserve(), 3) for _ in range(3)] == [0.0, 0.1, 0.2]
    clock[0] += 60  # what was not used is no credit
    assert [round(limit.reserve(), 3) for _ in range(2)] == [0.0, 0.1]


def test_a_batch_waits_until_it_fits_the_rate_and_makes_up_for_at_most_what_it_may(clock: list[float]) -> None:
    limit = RateLimit(10, catch_up=1.0)
    assert limit.reserve(5) == pytest.approx(0.5)
    clock[0] += 60
    assert limit.reserve(5) == 0
    assert limit.reserve(10) == pytest.approx(0.5)
