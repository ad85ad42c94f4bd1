"""A Jupyter kit for operating an ERP that is a modular monolith with one PostgreSQL schema per tenant.

`erpkit.open()` returns one object from which everything else is reached. The other names are the records that declare an ERP, the
arguments of its handlers, the parts of results, and the errors. Names are imported on first use, so that `import erpkit` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erpkit.app import Application, Call, compose
    from erpkit.config import Settings
    from erpkit.erp import Erp, Rehearsal, open
    from erpkit.errors import DatabaseError, ErpkitError, ModuleError, PlanChangedError, UsageError
    from erpkit.events import Context, EventBus, Message
    from erpkit.finding import Finding
    from erpkit.modules import (
        CommandHandler,
        EventHandler,
        Module,
        Query,
        QueryHandler,
        Registry,
        Retry,
        Tool,
        Upcaster,
        register,
    )
    from erpkit.plan import Plan
    from erpkit.result import Summary
    from erpkit.runs import check_parameters
    from erpkit.table import Column, Table

__version__ = "0.1.0"

__all__ = [
    "Application",
    "Call",
    "Column",
    "CommandHandler",
    "Context",
    "DatabaseError",
    "Erp",
    "ErpkitError",
    "EventBus",
    "EventHandler",
    "Finding",
    "Message",
    "Module",
    "ModuleError",
    "Plan",
    "PlanChangedError",
    "Query",
    "QueryHandler",
    "Registry",
    "Rehearsal",
    "Retry",
    "Settings",
    "Summary",
    "Table",
    "Tool",
    "Upcaster",
    "UsageError",
    "check_parameters",
    "compose",
    "open",
    "register",
]

_WHERE = {
    "app": {"Application", "Call", "compose"},
    "config": {"Settings"},
    "erp": {"Erp", "Rehearsal", "open"},
    "errors": {"DatabaseError", "ErpkitError", "ModuleError", "PlanChangedError", "UsageError"},
    "events": {"Context", "EventBus", "Message"},
    "finding": {"Finding"},
    "modules": {
        "CommandHandler",
        "EventHandler",
        "Module",
        "Query",
        "QueryHandler",
        "Registry",
        "Retry",
        "Tool",
        "Upcaster",
        "register",
    },
    "plan": {"Plan"},
    "result": {"Summary"},
    "runs": {"check_parameters"},
    "table": {"Column", "Table"},
}


def load_ipython_extension(shell: Any) -> None:
    """Add the magics `%%tenant` and `%%tenants` to a notebook: `%load_ext erpkit`."""
    from erpkit.ui.magics import register  # noqa: PLC0415 - needs IPython

    register(shell)


def __getattr__(name: str) -> Any:
    for home, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"erpkit.{home}"), name)
    raise AttributeError(f"module 'erpkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
