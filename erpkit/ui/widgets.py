"""Widgets for JupyterLab. Headlessly they leave nothing in a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from erpkit.tenants import TenantInspection
from erpkit.visible import visible_html
from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from ipywidgets import VBox

__all__ = ["explore_tenants"]

_CELL = "text-align:left;vertical-align:top;padding:.2em 1em .2em .3em"


def explore_tenants(inspections: Sequence[TenantInspection]) -> VBox | None:
    """Return a picker of tenants that shows what was found of the one chosen; None where nobody watches."""
    if not is_a_notebook_watched():
        return None
    import ipywidgets  # noqa: PLC0415 - slow to import

    by_slug = {i.tenant.slug: i for i in inspections}
    picker = ipywidgets.Dropdown(options=list(by_slug), description="Tenant", style={"description_width": "4em"})
    pane = ipywidgets.HTML(_details(inspections[0]) if inspections else "There are no tenants.")
    picker.observe(lambda change: setattr(pane, "value", _details(by_slug[change["new"]])), names="value")
    return ipywidgets.VBox([picker, pane])


def _details(inspection: TenantInspection) -> str:
    tenant = inspection.tenant
    facts = [
        ("name", tenant.name),
        ("schema", tenant.schema),
        ("status", tenant.status),
        ("size", f"{inspection.size / 2**20:.2f} MiB"),
        ("versions", ", ".join(f"{module} {version}" for module, version in inspection.versions.items())),
        ("rows", ", ".join(f"{table} {count:,}" for table, count in sorted(inspection.rows.items()) if count)),
        ("problems", "; ".join(inspection.problems) or "none"),
    ]
    lines = "".join(
        f'<tr><th style="{_CELL};font-weight:600">{name}</th><td style="{_CELL}">{visible_html(text)}</td></tr>'
        for name, text in facts
    )
    return f'<table style="line-height:1.4">{lines}</table>'
