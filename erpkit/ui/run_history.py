"""What people look at to see how runs went: durations over time, failures, flaky ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from erpkit.runs import RunRecord, Summary, find_flaky, find_last
from erpkit.ui.plots import AMBER, GREEN, GREY, RED, Picture, figure_of, legend, picture_of
from erpkit.ui.tables import frame_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["plot_runs", "run_failures_table", "runs_table", "summarize_runs", "work_table"]

_COLORS = {"ok": GREEN, "findings": AMBER, "interrupted": GREY}


def plot_runs(runs: Sequence[RunRecord], most: int = 8) -> Picture:
    """Draw how long runs took over time, a row a notebook, coloured by outcome; the `most` notebooks that ran most often."""
    ended = [run for run in runs if run.seconds is not None]
    rows = sorted(_by_notebook(ended), key=lambda row: -len(row[1]))[:most]
    if not rows:
        return Picture("No run was recorded.", "no run was recorded")
    figure, axes = figure_of(len(rows), 1, height=0.9 * len(rows) + 0.9)
    shared = [axes] if len(rows) == 1 else list(axes)
    for (notebook, same), one in zip(rows, shared, strict=True):
        _draw(one, notebook, same)
        one.sharex(shared[0])
        one.tick_params(labelbottom=one is shared[-1])
    _date_axis(shared[-1])
    legend(figure, {"ok": GREEN, "findings": AMBER, "failed, timed out, killed": RED, "interrupted": GREY})
    return picture_of(figure, f"how long the runs of {len(rows)} notebooks took over time")


def _draw(axes: Axes, notebook: str, runs: Sequence[RunRecord]) -> None:
    seconds = [run.seconds or 0 for run in runs]
    times: Any = [run.started_at for run in runs]  # matplotlib draws times, though its types do not say so
    axes.scatter(times, seconds, c=[_color(run) for run in runs], s=20, zorder=2)
    axes.set_title(f"{notebook}, seconds", fontsize=9, loc="left")
    axes.set_ylim(0, max([*seconds, 0.1]) * 1.3)
    axes.margins(x=0.03)
    axes.grid(axis="y", color="#e5e7eb")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=8, left=False)


def _date_axis(axes: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415 - slow to import

    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def runs_table(runs: Sequence[RunRecord]) -> pandas.DataFrame:
    """One line a run, in the order given."""
    return frame_of(
        [
            {"started": f"{r.started_at:%Y-%m-%d %H:%M:%S}", "notebook": r.notebook, "tenants": ", ".join(r.tenants),
             "outcome": r.verdict, "seconds": _seconds(r.seconds), "by": f"{r.who}@{r.host}", "revision": r.revision[:10]}
            for r in runs
        ]
    )  # fmt: skip


def run_failures_table(runs: Sequence[RunRecord]) -> pandas.DataFrame:
    """One line a run that failed, timed out, was killed or was lost."""
    return runs_table([run for run in runs if run.is_good is False])


def work_table(runs: Sequence[RunRecord]) -> pandas.DataFrame:
    """One line a notebook with the same parameters: how often it ran, how it ended, how long it took, how often it turned."""
    flaky, last = find_flaky(runs), {run.key: run for run in find_last(runs)}
    lines = []
    for key, same in sorted(_by_key(runs)):
        seconds = [run.seconds for run in same if run.seconds is not None]
        lines.append(
            {"work": key, "runs": len(same), "bad": sum(run.is_good is False for run in same),
             "last": last[key].verdict if key in last else "running", "median s": _seconds(median(seconds or [0])),
             "longest s": _seconds(max(seconds, default=0)), "turned": flaky.get(key, 0)}
        )  # fmt: skip
    return frame_of(lines)


def summarize_runs(target: str, runs: Sequence[RunRecord]) -> Summary:
    """End the notebook: findings are work whose last run was bad, and work that is flaky."""
    bad = [run for run in find_last(runs) if run.is_good is False]
    flaky = find_flaky(runs)
    findings = [f"{run.key}: the last run {run.verdict} ({run.started_at:%Y-%m-%d %H:%M})" for run in bad]
    findings += [f"{key}: flaky, went from good to bad or back {turns} times" for key, turns in flaky.items()]
    facts = {
        "runs": len(runs),
        "notebooks": len({run.notebook for run in runs}),
        "bad": sum(run.is_good is False for run in runs),
        "flaky": len(flaky),
    }
    return Summary(f"{len(runs)} runs recorded on {target}", facts, findings)


def _by_notebook(runs: Sequence[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    ordered = sorted(runs, key=lambda run: run.notebook)
    return [(name, list(same)) for name, same in groupby(ordered, key=lambda run: run.notebook)]


def _by_key(runs: Sequence[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    ordered = sorted(runs, key=lambda run: run.key)
    return [(key, list(same)) for key, same in groupby(ordered, key=lambda run: run.key)]


def _color(run: RunRecord) -> str:
    return _COLORS.get(run.outcome, RED)


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
