"""How handlers keep up with the event logs, for people: tables, pictures and the summary of the notebook event_health."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from erpkit.database import Tenant
from erpkit.events import DeadLetterCount, GroupLag, LockHolder, TopicRate
from erpkit.runs import Summary
from erpkit.ui.plots import AMBER, BLUE, Picture, figure_of, legend, picture_of
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = [
    "failures_table",
    "lag_table",
    "lock_holders_table",
    "plot_lag",
    "plot_rates",
    "rates_table",
    "summarize_event_health",
]


def lag_table(lag: Sequence[GroupLag], now: datetime) -> pandas.DataFrame:
    """One line a tenant and handler for which events wait, the one that has waited longest first."""
    behind = sorted((one for one in lag if one.waiting), key=lambda one: -one.age(now))
    return frame_of(
        [
            {
                "tenant": one.tenant,
                "handler": one.handler,
                "topic": one.topic,
                "waiting": one.waiting,
                "oldest": f"{one.oldest:%Y-%m-%d %H:%M:%S}",
                "for": duration(one.age(now)),
                "last handled": f"{one.moved_at:%Y-%m-%d %H:%M:%S}" if one.checkpoint and one.moved_at else "never",
            }
            for one in behind
        ],
        ["for"],
    )


def rates_table(rates: Sequence[TopicRate]) -> pandas.DataFrame:
    """One line a topic: what was appended in the last hour and day over all tenants, and which tenant had most of it."""
    topics: dict[str, list[TopicRate]] = {}
    for rate in rates:
        topics.setdefault(rate.topic, []).append(rate)
    lines: list[dict[str, object]] = []
    for topic, some in sorted(topics.items()):
        busiest = max(some, key=lambda rate: rate.day)
        lines.append(
            {
                "topic": topic,
                "tenants": len(some),
                "last hour": sum(rate.hour for rate in some),
                "last day": sum(rate.day for rate in some),
                "busiest": busiest.tenant,
                "of it": busiest.day,
                "newest": f"{max(rate.newest for rate in some):%Y-%m-%d %H:%M:%S}",
            }
        )
    return frame_of(lines)


def failures_table(counts: Sequence[DeadLetterCount]) -> pandas.DataFrame:
    """One line a handler and cause: in how many tenants it occurs, how often, and since when; the most frequent first."""
    return frame_of(
        [
            {
                "handler": handler,
                "cause": cause,
                "tenants": len({count.tenant for count in some}),
                "letters": _letters(some),
                "first": f"{min(count.first_failed_at for count in some):%Y-%m-%d %H:%M}",
                "last": f"{max(count.last_failed_at for count in some):%Y-%m-%d %H:%M}",
            }
            for (handler, cause), some in _by_cause(counts).items()
        ]
    )


def lock_holders_table(holders: Sequence[LockHolder]) -> pandas.DataFrame:
    """One line a transaction that has long held the lock of an append or of a dispatcher."""
    return frame_of(
        [
            {
                "tenant": holder.tenant,
                "holds": holder.what,
                "process": str(holder.pid),
                "user": holder.user,
                "application": holder.application,
                "state": holder.state,
                "open for": duration(holder.seconds),
                "wait behind it": holder.waiting,
                "last statement": holder.query,
            }
            for holder in holders
        ],
        ["process", "open for"],
    )


def plot_lag(lag: Sequence[GroupLag], now: datetime, max_age: float, most: int = 20) -> Picture:
    """Draw how many events wait for each handler of each tenant and for how long, in amber where longer than `max_age` seconds."""
    behind = sorted((one for one in lag if one.waiting), key=lambda one: -one.age(now))[:most]
    if not behind:
        return Picture("No event waits.", "no event waits")
    figure, (waiting, ages) = figure_of(1, 2, width=10, height=0.27 * len(behind) + 1.1)
    names = [f"{one.tenant}, {one.handler}" for one in behind]
    colors = [AMBER if one.age(now) > max_age else BLUE for one in behind]
    _bars(waiting, names, [one.waiting for one in behind], [f"{one.waiting:,}" for one in behind], colors)
    _bars(ages, [], [one.age(now) for one in behind], [duration(one.age(now)) for one in behind], colors)
    waiting.set_title("events that wait", loc="left", fontsize=10)
    ages.set_title("the oldest has waited for", loc="left", fontsize=10)
    legend(figure, {"in time": BLUE, f"longer than {duration(max_age)}": AMBER})
    return picture_of(figure, f"{sum(one.waiting for one in behind):,} events wait for {len(behind)} handlers")


def plot_rates(rates: Sequence[TopicRate], most: int = 20) -> Picture:
    """Draw how many events each tenant's log got in the last day, the busiest first."""
    days: dict[str, int] = {}
    for rate in rates:
        days[rate.tenant] = days.get(rate.tenant, 0) + rate.day
    busiest = sorted(days.items(), key=lambda day: -day[1])[:most]
    if not busiest:
        return Picture("No event was appended in the last day.", "no event in the last day")
    figure, axes = figure_of(1, 1, width=8, height=0.27 * len(busiest) + 0.8)
    counts = [count for _, count in busiest]
    _bars(axes, [slug for slug, _ in busiest], counts, [f"{count:,}" for count in counts], [BLUE] * len(counts))
    axes.set_title("events in the last day", loc="left", fontsize=10)
    return picture_of(figure, f"{sum(days.values()):,} events in {len(days)} tenants in the last day")


def summarize_event_health(
    target: str, now: datetime, fleet: Sequence[Tenant], lag: Sequence[GroupLag], rates: Sequence[TopicRate],
    counts: Sequence[DeadLetterCount], holders: Sequence[LockHolder], max_lag: int, max_age: float,
) -> Summary:  # fmt: skip
    """Sum up the health of the event logs: what waits too long, dead letters by cause, and who holds things back are findings."""
    facts = {
        "tenants": sum(tenant.is_active for tenant in fleet),
        "waiting": sum(one.waiting for one in lag),
        "oldest": duration(max((one.age(now) for one in lag), default=0.0)),
        "last hour": sum(rate.hour for rate in rates),
        "last day": sum(rate.day for rate in rates),
        "dead letters": _letters(counts),
        "skipped": ", ".join(tenant.slug for tenant in fleet if not tenant.is_active) or "none",
    }
    findings = [
        *(f"{g.tenant}: {g.waiting:,} event(s) wait for {g.handler}" for g in lag if g.waiting > max_lag),
        *(f"{g.tenant}: one waits for {g.handler} for {duration(g.age(now))}" for g in lag if g.age(now) > max_age),
        *(f"{g.tenant}: the event of {g.handler} after offset {g.checkpoint} ended its dispatcher" for g in lag if g.attempts),
        *(f"{_letters(some)} dead letter(s) of {handler}: {cause}" for (handler, cause), some in _by_cause(counts).items()),
        *map(str, holders),
    ]  # fmt: skip
    return Summary(f"Events on {target}", facts, findings)


def duration(seconds: float) -> str:
    """Put seconds in words, to two figures or so: `4 s`, `12 min`, `30 h`, `8 d`."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def _by_cause(counts: Sequence[DeadLetterCount]) -> dict[tuple[str, str], list[DeadLetterCount]]:
    """Put the counts of all tenants and topics together by handler and cause, the most letters first."""
    causes: dict[tuple[str, str], list[DeadLetterCount]] = {}
    for count in counts:
        causes.setdefault((count.handler, count.cause), []).append(count)
    return dict(sorted(causes.items(), key=lambda cause: -_letters(cause[1])))


def _letters(counts: Sequence[DeadLetterCount]) -> int:
    return sum(count.letters for count in counts)


def _bars(
    axes: Axes, names: Sequence[str], values: Sequence[float], labels: Sequence[str], colors: Sequence[str]
) -> None:
    bars = axes.barh(range(len(values)), values, color=colors, height=0.7)
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.margins(x=0.2)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
