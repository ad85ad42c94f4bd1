"""What changed since an earlier look: decided by records alone."""

from datetime import UTC, datetime, timedelta

import pytest

from erpkit.errors import UsageError
from erpkit.finding import Finding, with_ages
from erpkit.runs.changes import Changes, Look, compare, describe_age, find_base, look_after
from erpkit.runs.store import find_surplus
from erpkit.runs.thresholds import find_over, read_thresholds

MONDAY = datetime(2026, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
PENDING = Finding("pending", "acme", "behind on migrations (billing 4)")
LETTERS = Finding("dead letters", "cobalt", "12 dead letters: no exchange rate for CHF")
DRIFT = Finding("drift", "kunde_0002", "column orders.extra is extra")


def _seen(
    *findings: Finding, days: int = 0, last: Look | None = None, base: Look | None = None
) -> tuple[Changes, Look]:
    changes = compare(last, MONDAY + days * DAY, {}, findings, base)
    return changes, look_after(changes, {})


def test_at_the_first_look_nothing_is_new_or_known() -> None:
    changes, look = _seen(PENDING)
    assert (changes.since, changes.ages, changes.lines, changes.has_news) == (None, {}, [], False)
    assert [one.since for one in look.sightings] == [MONDAY]
    assert str(changes) == "first run: there is nothing to compare with"


def test_findings_are_new_known_or_gone_and_keep_the_time_when_they_were_first_seen() -> None:
    _, monday = _seen(PENDING, LETTERS)
    _, tuesday = _seen(PENDING, LETTERS, days=1, last=monday)
    changes, _ = _seen(LETTERS, DRIFT, days=3, last=tuesday)
    assert [[one.text for one in some] for some in (changes.new, changes.known, changes.gone)] == [
        [str(DRIFT)], [str(LETTERS)], [str(PENDING)],
    ]  # fmt: skip
    assert (changes.known[0].since, changes.gone[0].since) == (MONDAY, MONDAY)
    assert str(changes) == "since the last run (2026-03-03 08:00 UTC): 1 new, 1 known, 1 gone"
    assert [one.age for one in with_ages([LETTERS, DRIFT], changes.ages)] == ["for 3 days", "new since 2026-03-03"]


def test_a_finding_is_the_same_one_whatever_its_figures_and_another_one_for_another_subject() -> None:
    more = Finding("dead letters", "cobalt", "1,207 dead letters: no exchange rate for CHF")
    assert more.key == LETTERS.key
    assert (
        Finding("lag", "a", "the oldest has waited for 90 s").key
        == Finding("lag", "a", "the oldest has waited for 2 min").key
    )
    assert (
        Finding("age", "a", "open since 2026-03-01 10:00").key == Finding("age", "a", "open since 2026-11-30 23:59").key
    )
    assert DRIFT.key != Finding("drift", "kunde_0003", DRIFT.problem).key
    assert DRIFT.key != Finding("drift", "kunde_0002", "column orders.extra2 is extra").key
    _, monday = _seen(LETTERS)
    changes, _ = _seen(more, days=1, last=monday)
    assert ([one.text for one in changes.known], changes.new, changes.gone) == ([str(more)], (), ())


@pytest.mark.parametrize(
    "blind",
    [
        Finding("not read", "acme", "permission denied; not read: versions"),
        Finding("gone", "acme", "its schema tenant_acme does not exist", "error"),
        Finding("skipped", "acme", "skipped: suspended", "info"),
        Finding("no tenants", "", "there are no tenants"),
    ],
)
def test_what_was_not_looked_at_is_not_gone_and_is_known_when_it_is_seen_again(blind: Finding) -> None:
    _, monday = _seen(PENDING)
    changes, tuesday = _seen(blind, days=1, last=monday)
    assert (changes.gone, [one.text for one in changes.unread]) == ((), [str(PENDING)])
    again, _ = _seen(PENDING, days=2, last=tuesday)
    assert [one.since for one in again.known] == [MONDAY]


def test_a_finding_that_comes_back_is_new() -> None:
    _, monday = _seen(PENDING)
    _, tuesday = _seen(days=1, last=monday)
    changes, _ = _seen(PENDING, days=2, last=tuesday)
    assert ([one.text for one in changes.new], changes.has_news) == ([str(PENDING)], True)


def test_a_finding_that_was_gone_since_yesterdays_look_is_told_to_be_back() -> None:
    _, yesterday = _seen(PENDING)
    _, gone = _seen(days=1, last=yesterday)
    changes = compare(gone, MONDAY + DAY + timedelta(minutes=5), {}, [PENDING, LETTERS], base=yesterday)
    assert changes.ages == {PENDING.key: "back since 08:05 UTC", LETTERS.key: "new since yesterday"}


def test_advice_that_is_new_is_no_news() -> None:
    _, monday = _seen()
    changes, _ = _seen(Finding("advice", "acme", "an index is never used", "info"), days=1, last=monday)
    assert (len(changes.new), changes.has_news) == (1, False)


def test_what_is_new_is_so_since_the_look_of_about_a_day_ago_and_not_only_since_the_last() -> None:
    _, monday = _seen()
    late = compare(monday, MONDAY + timedelta(hours=20), {}, [PENDING])
    last = look_after(late, {})
    changes = compare(last, MONDAY + DAY, {}, [PENDING], base=monday)
    assert changes.ages == {PENDING.key: "new since yesterday"}


def test_facts_have_their_difference_and_text_only_what_it_was() -> None:
    last = Look(MONDAY, {"MiB": 7.1, "oldest": "5 s", "tenants": 4, "dropped": 1})
    changes = compare(last, MONDAY + DAY, {"MiB": 7.7, "oldest": "9 s", "tenants": 4, "added": 2}, [])
    assert [(one.name, one.difference) for one in changes.facts] == [("MiB", 0.6), ("oldest", None), ("tenants", 0)]
    assert changes.lines[-1] == "facts: MiB 7.7 (+0.6), oldest 9 s (was 5 s)"
    assert len(changes.table.rows) == 2


def test_changes_and_looks_can_be_written_down_and_read_again() -> None:
    _, monday = _seen(PENDING, LETTERS)
    changes, look = _seen(LETTERS, DRIFT, days=1, last=monday)
    assert Changes.of(changes.document()) == changes
    assert Look.of(look.document()).sightings == list(look.sightings)


def test_an_age_is_told_in_words() -> None:
    noon, base = datetime(2026, 3, 4, 12, tzinfo=UTC), MONDAY
    told = {
        describe_age(base - timedelta(seconds=ago), base, noon)
        for ago in (0, 10 * 86_400)
    }  # fmt: skip
    assert told == {"for 2 days", "for 12 days"}
    assert describe_age(noon - timedelta(minutes=5), noon, noon) == "for 5 minutes"
    assert describe_age(noon - timedelta(hours=5), noon, noon) == "for 5 hours"
    assert describe_age(noon, noon - timedelta(hours=3), noon) == "new since 09:00 UTC"
    assert describe_age(noon, noon - timedelta(hours=20), noon) == "new since yesterday"
    assert describe_age(noon, base - 5 * DAY, noon) == "new since 2026-02-25"


def test_growth_is_measured_from_the_look_that_is_nearest_to_a_day_old_else_from_the_oldest() -> None:
    now = MONDAY
    assert find_base([], now) is None
    assert find_base([now - timedelta(hours=2), now - timedelta(hours=1)], now) == now - timedelta(hours=2)
    assert find_base([now - 3 * DAY, now - DAY, now - timedelta(hours=1)], now) == now - DAY


def test_of_many_looks_one_an_hour_and_later_one_a_day_is_kept_and_always_the_newest() -> None:
    times = {n: MONDAY - timedelta(minutes=5 * n) for n in range(12 * 24 * 10)}
    kept = sorted(times[id_] for id_ in set(times) - set(find_surplus(times, MONDAY)))
    assert kept[-1] == MONDAY
    assert 48 + 7 <= len(kept) <= 48 + 12
    assert find_base(kept, MONDAY) == MONDAY - DAY
    assert find_surplus({1: MONDAY - 200 * DAY}, MONDAY) == []
    assert find_surplus({1: MONDAY - 200 * DAY, 2: MONDAY}, MONDAY) == [1]


def test_a_fact_over_its_threshold_is_a_finding_and_so_is_one_that_was_to_be_shown_and_was_not() -> None:
    thresholds = read_thresholds(
        ["dead letters <= 10", "probe: MiB <= +20%", "probe:rows >= -5", "probe: gone < 1", "else: dead letters < 1"]
    )
    facts, before = {"dead letters": 12, "MiB": 15.0, "rows": 90}, {"MiB": 10.0, "rows": 100}
    assert [str(one) for one in find_over(thresholds, "probe", facts, before)] == [
        "dead letters: is 12, and its threshold is <= 10",
        "MiB: went from 10 to 15, and the threshold of the change is <= +20 %",
        "rows: went from 100 to 90, and the threshold of the change is >= -5",
        "gone: was not shown, and its threshold is < 1",
    ]
    assert find_over(thresholds[:1], "probe", {"dead letters": 10}) == []
    assert find_over(thresholds[1:2], "probe", {"MiB": 15.0}) == []  # the first run
    assert "which is no number" in str(find_over(thresholds[:1], "probe", {"dead letters": None})[0])


@pytest.mark.parametrize("text", ["dead letters", "<= 10", "MiB <= 20%", "MiB == 3", "MiB <= many"])
def test_a_threshold_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be understood: write it as ERPKIT_THRESHOLDS="):
        read_thresholds([text])
