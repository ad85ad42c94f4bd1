"""A widget over the module graph: what depends on a module, and what if an edge were cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from erpkit.modules import ModuleCheck, cut_edges, find_impact
from erpkit.visible import visible_html

_NONE = ("none", "")


def explore_modules(check: ModuleCheck, *, impact: str = "", cut: Sequence[str] = ()) -> ModuleExplorer:
    """Return a widget that tells what depends on a module, and how the modules would be without some edges.

    It opens on `impact`, a module, and on `cut`, edges such as `sales->catalog`; without a browser it shows those. Raises
    UsageError for a module or an edge that there is not.
    """
    if impact:
        find_impact(check, impact)
    if cut:
        cut_edges(check, cut)
    return ModuleExplorer(check, impact, [edge.replace(" ", "") for edge in cut])


class ModuleExplorer:
    """Pickers of a module and of edges; edges that are part of the smallest cut stand first."""

    def __init__(self, check: ModuleCheck, impact: str, cut: Sequence[str]) -> None:
        import ipywidgets  # noqa: PLC0415 - slow to import

        self._check = check
        style = {"description_width": "8em"}
        self.impact = ipywidgets.Dropdown(
            description="Depends on", options=[_NONE, *((name, name) for name in sorted(self._names()))],
            value=impact, style=style,
        )  # fmt: skip
        edges = self._edges()
        self.cut = ipywidgets.SelectMultiple(
            description="Without", options=edges, value=list(cut), rows=min(6, max(2, len(edges))), style=style
        )
        self.impact_view, self.cut_view = ipywidgets.HTML(), ipywidgets.HTML()
        self.widget = ipywidgets.VBox([self.impact, self.impact_view, self.cut, self.cut_view])
        self.impact.observe(lambda _: self._show_impact(), names="value")
        self.cut.observe(lambda _: self._show_cut(), names="value")
        self._show_impact()
        self._show_cut()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Show the widget, and where there is no browser to draw it, what it was opened on."""
        text = self.impact_view.value + self.cut_view.value
        nothing = "<p><em>Give the parameters impact or cut, or open this notebook in JupyterLab.</em></p>"
        return self.widget._repr_mimebundle_(**options) | {"text/plain": self._plain(), "text/html": text or nothing}

    def _plain(self) -> str:
        told = [str(find_impact(self._check, self.impact.value))] if self.impact.value else []
        told += [str(cut_edges(self._check, self.cut.value))] if self.cut.value else []
        return "\n".join(told) or "nothing was asked"

    def _names(self) -> list[str]:
        return [*self._check.names, *self._check.outside]

    def _edges(self) -> list[str]:
        to_cut = [pair for component in self._check.components for pair in component.cut.edges]
        return [f"{source}->{target}" for source, target in dict.fromkeys([*to_cut, *sorted(self._check.pairs)])]

    def _show_impact(self) -> None:
        if not self.impact.value:
            self.impact_view.value = ""
            return
        impact = find_impact(self._check, self.impact.value)
        picture = self._check.picture(around=impact.module)._repr_html_() if impact.direct else ""
        table = replace(impact.table, height="24em")._repr_html_() if impact.direct else ""
        self.impact_view.value = _said(str(impact)) + picture + table

    def _show_cut(self) -> None:
        if not self.cut.value:
            self.cut_view.value = ""
            return
        what_if = cut_edges(self._check, self.cut.value)
        order = f"load order then: {', '.join(what_if.order)}" if what_if.order else "no load order even then"
        table = replace(what_if.table, height="24em")._repr_html_()
        self.cut_view.value = _said(str(what_if)) + table + _said(order)


def _said(text: str) -> str:
    return f"<p>{visible_html(text)}</p>"
