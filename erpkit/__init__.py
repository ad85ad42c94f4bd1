"""A Jupyter kit for operating an ERP that is a modular monolith with one PostgreSQL schema per tenant.

Names are imported on first use, so that `import erpkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from erpkit.config import Settings
    from erpkit.database import TEMPLATE, Database, Tenant
    from erpkit.errors import ErpkitError
    from erpkit.events import (
        CommandBus,
        Context,
        Message,
        Selection,
        consume,
        dispatch,
        forward,
        list_dead_letters,
        open_broker,
        plan_replay,
        run_replay,
    )
    from erpkit.migrations import (
        Limits,
        describe_status,
        estimate_plan,
        lint_plan,
        plan_down,
        plan_redo,
        plan_up,
        read_applied,
        read_history,
        read_migrations,
        read_milliseconds,
        run_plan,
    )
    from erpkit.modules import CommandHandler, EventHandler, Module, check_modules, find_modules, load_modules
    from erpkit.runs import Rehearsal, Summary, check_parameters
    from erpkit.tenants import (
        across,
        compare_snapshots,
        create_tenant,
        drop_tenant,
        ensure_template,
        export_tenant,
        find_tenants,
        import_tenant,
        inspect_tenants,
        list_tenants,
        plan_drop,
        plan_provision,
        provision_tenant,
        read_snapshot,
        rename_tenant,
        set_status,
        take_snapshot,
        verify_export,
        write_snapshot,
    )  # fmt: skip

__version__ = "0.1.0"

__all__ = [
    "TEMPLATE",
    "CommandBus",
    "CommandHandler",
    "Context",
    "Database",
    "ErpkitError",
    "EventHandler",
    "Limits",
    "Message",
    "Module",
    "Rehearsal",
    "Selection",
    "Settings",
    "Summary",
    "Tenant",
    "across",
    "check_modules",
    "check_parameters",
    "compare_snapshots",
    "consume",
    "create_tenant",
    "describe_status",
    "dispatch",
    "drop_tenant",
    "ensure_template",
    "estimate_plan",
    "export_tenant",
    "find_modules",
    "find_tenants",
    "forward",
    "import_tenant",
    "inspect_tenants",
    "lint_plan",
    "list_dead_letters",
    "list_tenants",
    "load_modules",
    "open_broker",
    "plan_down",
    "plan_drop",
    "plan_provision",
    "plan_redo",
    "plan_replay",
    "plan_up",
    "provision_tenant",
    "read_applied",
    "read_history",
    "read_migrations",
    "read_milliseconds",
    "read_snapshot",
    "rename_tenant",
    "run_plan",
    "run_replay",
    "set_status",
    "take_snapshot",
    "verify_export",
    "write_snapshot",
]

_WHERE = {
    "config": {"Settings"},
    "database": {"TEMPLATE", "Database", "Tenant"},
    "errors": {"ErpkitError"},
    "events": {
        "CommandBus",
        "Context",
        "Message",
        "Selection",
        "consume",
        "dispatch",
        "forward",
        "list_dead_letters",
        "open_broker",
        "plan_replay",
        "run_replay",
    },
    "migrations": {
        "Limits",
        "describe_status",
        "estimate_plan",
        "lint_plan",
        "plan_down",
        "plan_redo",
        "plan_up",
        "read_applied",
        "read_history",
        "read_migrations",
        "read_milliseconds",
        "run_plan",
    },
    "modules": {"CommandHandler", "EventHandler", "Module", "check_modules", "find_modules", "load_modules"},
    "runs": {"Rehearsal", "Summary", "check_parameters"},
    "tenants": {
        "across",
        "compare_snapshots",
        "create_tenant",
        "drop_tenant",
        "ensure_template",
        "export_tenant",
        "find_tenants",
        "import_tenant",
        "inspect_tenants",
        "list_tenants",
        "plan_drop",
        "plan_provision",
        "provision_tenant",
        "read_snapshot",
        "rename_tenant",
        "set_status",
        "take_snapshot",
        "verify_export",
        "write_snapshot",
    },
}


def load_ipython_extension(shell: Any) -> None:
    """Bring `%%tenant` and `%%tenants` to a notebook: `%load_ext erpkit`."""
    from erpkit.ui.magics import register  # noqa: PLC0415 - needs IPython

    register(shell)


def __getattr__(name: str) -> Any:
    for home, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f"erpkit.{home}"), name)
    raise AttributeError(f"module 'erpkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
