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
        build_shadow,
        count_replay_results,
        diff_shadow,
        dispatch,
        export_events,
        find_shadow,
        list_dead_letters,
        list_replays,
        plan_replay,
        plan_resume,
        run_replay,
        swap_shadow,
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
    "build_shadow",
    "check_modules",
    "check_parameters",
    "compare_snapshots",
    "count_replay_results",
    "create_tenant",
    "describe_status",
    "diff_shadow",
    "dispatch",
    "drop_tenant",
    "ensure_template",
    "estimate_plan",
    "export_events",
    "export_tenant",
    "find_modules",
    "find_shadow",
    "find_tenants",
    "import_tenant",
    "inspect_tenants",
    "lint_plan",
    "list_dead_letters",
    "list_replays",
    "list_tenants",
    "load_modules",
    "plan_down",
    "plan_drop",
    "plan_provision",
    "plan_redo",
    "plan_replay",
    "plan_resume",
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
    "swap_shadow",
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
        "build_shadow",
        "count_replay_results",
        "diff_shadow",
        "dispatch",
        "export_events",
        "find_shadow",
        "list_dead_letters",
        "list_replays",
        "plan_replay",
        "plan_resume",
        "run_replay",
        "swap_shadow",
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
