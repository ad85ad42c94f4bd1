"""What people look at to see how runs went: durations over time, failures, flaky ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from erpkit.runs import RunRecord
from erpkit.ui.plots import AMBER, GREEN, GREY, RED, Picture, figure_of, legend, picture_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_runs"]

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


def _by_notebook(runs: Sequence[RunRecord]) -> list[tuple[str, list[RunRecord]]]:
    ordered = sorted(runs, key=lambda run: run.notebook)
    return [(name, list(same)) for name, same in groupby(ordered, key=lambda run: run.notebook)]


def _color(run: RunRecord) -> str:
    return _COLORS.get(run.outcome, RED)
