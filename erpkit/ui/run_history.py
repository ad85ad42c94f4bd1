"""The plot of recorded runs: durations over time, by outcome."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from erpkit.plural import count_of
from erpkit.result import Picture
from erpkit.runs import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREEN, _AMBER, _RED, _GREY = "#16a34a", "#d97706", "#dc2626", "#94a3b8"
_COLORS = {"ok": _GREEN, "findings": _AMBER, "interrupted": _GREY}
_INK = "#010203"  # stands for the colour of the page's text, which a reader in the dark has otherwise


def plot_runs(runs: Sequence[RunRecord], most: int = 8) -> Picture:
    """Draw how long runs took over time, a row a notebook, coloured by outcome; the `most` notebooks that ran most often."""
    ended = [run for run in runs if run.seconds is not None]
    rows = sorted(_by_notebook(ended), key=lambda row: -len(row[1]))[:most]
    if not rows:
        return Picture("No run was recorded.", "no run was recorded")
    figure, shared = _figure(len(rows))
    for (notebook, same), one in zip(rows, shared, strict=True):
        _draw(one, notebook, same)
        one.sharex(shared[0])
        one.tick_params(labelbottom=one is shared[-1])
    _date_axis(shared[-1])
    _legend(figure, {"ok": _GREEN, "findings": _AMBER, "failed, timed out, killed": _RED, "interrupted": _GREY})
    text = f"how long the runs of {count_of(len(rows), 'notebook')} took over time"
    return Picture(_svg(figure, text), text)


def _draw(axes: Axes, notebook: str, runs: Sequence[RunRecord]) -> None:
    seconds = [run.seconds or 0 for run in runs]
    times: Any = [run.started_at for run in runs]  # matplotlib draws times, though its types do not say so
    axes.scatter(times, seconds, c=[_color(run) for run in runs], s=20, zorder=2)
    axes.set_title(f"{notebook}, seconds", fontsize=9, loc="left", color=_INK)
    axes.set_ylim(0, max([*seconds, 0.1]) * 1.3)
    axes.margins(x=0.03)
    axes.grid(axis="y", color="#8884")
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
    return _COLORS.get(run.outcome, _RED)


def _figure(rows: int) -> tuple[Figure, list[Axes]]:
    """Make a figure without pyplot, which would keep it and choose a backend."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure(figsize=(9, 0.9 * rows + 0.9), layout="constrained")
    return figure, [axes for line in figure.subplots(rows, 1, squeeze=False) for axes in line]


def _legend(figure: Figure, colors: dict[str, str]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415 - slow to import

    handles = [Patch(color=color, label=label) for label, color in colors.items()]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9, labelcolor=_INK
    )


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as SVG on a transparent ground, its text in the colour of the page's."""
    for axes in figure.axes:
        axes.tick_params(colors=_INK)
        axes.xaxis.get_offset_text().set_color(_INK)
        axes.spines["bottom"].set_color(_INK)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    svg = buffer.getvalue().replace(_INK, "currentColor")
    # On a narrow screen it is scrolled rather than made too small to be read: three quarters of its size are legible.
    least = f'<svg style="min-width:{72 * figure.get_figwidth():.0f}px" '
    return svg[svg.index("<svg") :].replace("<svg ", least, 1)
