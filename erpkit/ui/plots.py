"""Pictures of the fleet, as SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erpkit.events import ReplayPlan
from erpkit.tenants import Growth, TenantInspection
from erpkit.visible import visible, visible_html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

__all__ = ["Picture", "plot_counts", "plot_events", "plot_growth", "plot_replay"]

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


def plot_events(inspections: Sequence[TenantInspection], most: int = 40) -> Picture:
    """Draw size and number of events a tenant, those with a problem in amber, the suspended ones in grey.

    Of more tenants than `most` the largest are drawn.
    """
    shown = "size, MiB"
    if len(inspections) > most:
        inspections = sorted(inspections, key=lambda i: -i.size)[:most]
        shown = f"size, MiB: the {most} largest"
    figure, (sizes, events) = figure_of(1, 2, height=0.27 * len(inspections) + 1.1)
    names = [i.tenant.slug for i in inspections]
    colors = [_tenant_color(i) for i in inspections]
    _bars(sizes, names, [i.size / 2**20 for i in inspections], colors, shown)
    _bars(events, names, [i.event_count for i in inspections], colors, "events in the log")
    events.set_yticklabels([])
    legend(figure, {"in order": BLUE, "to look at": AMBER, "not active": GREY})
    return picture_of(figure, "size and events of each tenant")


def plot_growth(growth: Mapping[str, Growth], most: int = 15) -> Picture:
    """Draw by how much the tenants grew that grew most, in size and in rows; those that shrank are left out."""
    grown = [one for one in growth.values() if (one.size or 0) > 0 or (one.rows or 0) > 0]
    grown = sorted(grown, key=lambda one: (-(one.size or 0), -(one.rows or 0)))[:most]
    if not grown:
        return Picture("No tenant grew.", "no tenant grew")
    figure, (sizes, rows) = figure_of(1, 2, height=0.27 * len(grown) + 0.8)
    names = [one.name for one in grown]
    _bars(sizes, names, [(one.size or 0) / 2**20 for one in grown], [BLUE] * len(grown), "grew by, MiB")
    _bars(rows, names, [one.rows or 0 for one in grown], [BLUE] * len(grown), "grew by, rows")
    rows.set_yticklabels([])
    return picture_of(figure, f"growth of {len(grown)} tenants")


def plot_replay(plan: ReplayPlan) -> Picture:
    """Draw how many events each handler would see again, over all tenants."""
    totals: dict[str, int] = {}
    for step in plan.steps:
        totals[step.handler] = totals.get(step.handler, 0) + step.events
    figure, axes = figure_of(1, 1, height=0.32 * len(totals) + 1)
    _bars(
        axes,
        list(totals),
        list(totals.values()),
        [BLUE] * len(totals),
        "events to publish again" if plan.target else "events to hand over again",
    )
    return picture_of(
        figure, ", ".join(f"{handler}: {events}" for handler, events in totals.items()) or "nothing to replay"
    )


def plot_counts(names: Sequence[str], counts: Sequence[int], title: str) -> Picture:
    """Draw how often each value occurs; a long value is cut."""
    figure, axes = figure_of(1, 1, width=7, height=0.28 * len(names) + 0.9)
    _bars(axes, [_label(name) for name in names], list(counts), [BLUE] * len(names), title)
    return picture_of(figure, f"{title}: {len(names)} values")


def _label(text: str) -> str:
    """Return one short line of text to stand beside a bar; a dollar sign would begin a formula."""
    line = visible(" ".join(text.split()))
    return (line if len(line) <= _LABEL else f"{line[:_LABEL]}…").replace("$", r"\$")


def _tenant_color(inspection: TenantInspection) -> str:
    if not inspection.tenant.is_active:
        return GREY
    return AMBER if inspection.problems else BLUE


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
