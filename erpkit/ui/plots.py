"""Pictures of the fleet, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erpkit.visible import visible, visible_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

__all__ = ["Picture", "plot_counts"]

BLUE, AMBER, RED, GREY, GREEN = "#2563eb", "#d97706", "#dc2626", "#94a3b8", "#16a34a"
_LABEL = 40  # characters beside a bar


@dataclass(frozen=True)
class Picture:
    """An SVG picture that shows itself in a notebook; `text` says the same in words."""

    svg: str
    text: str

    def _repr_html_(self) -> str:
        if "<svg" not in self.svg:
            return f"<p><em>{visible_html(self.svg)}</em></p>"
        style = "color:#111;background:#fff;border-radius:.4em;padding:.4em;margin:.4em 0 .8em;"
        style += "width:fit-content;max-width:100%;overflow-x:auto"
        return f'<div role="img" aria-label="{visible_html(self.text)}" style="{style}">{self.svg}</div>'

    def __repr__(self) -> str:
        return self.text


def plot_counts(names: Sequence[str], counts: Sequence[int], title: str) -> Picture:
    """Draw how often each value occurs; a long value is cut."""
    figure, axes = figure_of(1, 1, width=7, height=0.28 * len(names) + 0.9)
    _bars(axes, [_label(name) for name in names], list(counts), [BLUE] * len(names), title)
    return picture_of(figure, f"{title}: {len(names)} values")


def _label(text: str) -> str:
    """Return one short line of text to stand beside a bar; a dollar sign would begin a formula."""
    line = visible(" ".join(text.split()))
    return (line if len(line) <= _LABEL else f"{line[:_LABEL]}…").replace("$", r"\$")


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], colors: Sequence[str], title: str) -> None:
    bars = axes.barh(range(len(names)), values, color=colors, height=0.7)
    axes.bar_label(
        bars,
        labels=[f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" for value in values],
        padding=3,
        fontsize=8,
    )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.margins(x=0.15)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)


def rectangle(x: int, y: int, color: str) -> Rectangle:
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - slow to import

    return Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, facecolor=color, edgecolor="none")


def legend(figure: Figure, colors: dict[str, str]) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415

    handles = [Patch(color=color, label=label) for label, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)


def figure_of(rows: int, columns: int, *, width: float = 9, height: float = 3) -> tuple[Figure, Any]:
    """Make a figure without pyplot, which would keep it and choose a backend."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(width, max(height, 1)), layout="constrained")
    return figure, figure.subplots(rows, columns)


def picture_of(figure: Figure, text: str) -> Picture:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": text})
    svg = buffer.getvalue()
    # On a narrow screen it is scrolled, rather than made so small that nobody can read it: 7 tenths are still legible.
    least = f'<svg style="min-width:{50 * figure.get_figwidth():.0f}px" '
    return Picture(svg[svg.index("<svg") :].replace("<svg ", least, 1), text)
