"""The application: one function puts it together from the modules, and takes it apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from erpkit.app.call import Call, enter_call
from erpkit.app.start import started
from erpkit.app.subscription import dispatching
from erpkit.config import Settings
from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.errors import MigrationError
from erpkit.events import CommandBus, QueryBus, WorkerReport
from erpkit.migrations import MigrationPlan, plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Registry, Tool, load_modules, tools_of
from erpkit.tenants import ensure_template, find_tenants, look_up

__all__ = ["Application", "compose"]


@dataclass(frozen=True)
class Application:
    """The running ERP: its database, its modules, and the ways in.

    `public` holds the modules' public objects by name, as far as they have one. `behind` are the tenants that lack migrations.
    """

    database: Database
    registry: Registry
    public: Mapping[str, Any]
    behind: tuple[str, ...] = ()
    tenants_query: str | None = field(default=None, repr=False)

    @property
    def commands(self) -> CommandBus:
        """Sends commands, each in a transaction of its own."""
        return CommandBus(self.database, self.registry)

    @property
    def queries(self) -> QueryBus:
        """Asks queries, each in a transaction of its own."""
        return QueryBus(self.database, self.registry)

    @property
    def routes(self) -> dict[str, object]:
        """What each module that has any offers to HTTP, by the module's name."""
        found = {module.name: getattr(module, "routes", None) for module in self.registry.modules}
        return {name: routes for name, routes in found.items() if routes is not None}

    @property
    def tools(self) -> dict[str, Tool]:
        """What AI assistants may call, by name."""
        modules = self.registry.modules
        return {tool.name_in(module.name): tool for module in modules for tool in tools_of(module)}

    def find_tenant(self, slug: str) -> Tenant | None:
        """Return the tenant of this name, active or not."""
        with self.database.connection() as connection:
            return look_up(connection, slug, self.tenants_query)

    def call(self, tenant: Tenant, name: str, *, write: bool) -> AbstractContextManager[Call]:
        """Lend what a route or a tool works with, inside a transaction of `tenant`; `name` is for people."""
        return enter_call(self.database, self.registry, self.public, tenant, name, write=write)


@contextmanager
def compose(
    settings: Settings,
    *,
    migrate: bool = False,
    dispatch: bool = False,
    on_report: Callable[[WorkerReport], object] = str,
) -> Iterator[Application]:
    """Put the application together for the time of the block, and take it apart in reverse order.

    The modules are sorted, each is started with what it depends on, migrations are looked at, handlers subscribe to the log,
    and what the modules offer to HTTP and to AI assistants is at hand.

    It changes nothing unless asked: `migrate` brings all active tenants to the newest version, and without it those that are
    behind are only named; `dispatch` runs a worker in a thread, whose reports go to `on_report`. Raises ModuleError, naming
    the module and those that need it, and MigrationError, when nothing is left running.
    """
    registry = load_modules(settings)
    registry.check_handlers()
    with Database.open(settings) as database, started(registry.modules) as public:
        behind = _migrate(database, registry, settings, apply=migrate)
        worker = dispatching(database, registry, on_report) if dispatch else nullcontext()
        with worker:
            yield Application(database, registry, public, behind, settings.tenants_query)


def _migrate(database: Database, registry: Registry, settings: Settings, *, apply: bool) -> tuple[str, ...]:
    """Return the tenants that are behind, after bringing them up to date where that is asked for."""
    with database.connection() as connection:
        plan = _plan(connection, registry, settings)
        if not apply or (plan.is_empty and not plan.refused):
            return tuple(one.tenant.slug for one in plan.tenants) + tuple(plan.refused)
        database.check_writable()
        ensure_template(connection)
    run = run_plan(database, plan, plan.id)
    undone = {result.tenant: result.error for result in run.failed} | dict(run.not_started) | dict(plan.refused)
    if undone:
        told = "; ".join(f"{slug}: {reason}" for slug, reason in list(undone.items())[:3])
        more = f"; and {len(undone) - 3} more" if len(undone) > 3 else ""
        raise MigrationError(f"migrations failed, and nothing is running: {told}{more}")
    return ()


def _plan(connection: Connection, registry: Registry, settings: Settings) -> MigrationPlan:
    migrations = read_migrations(registry.modules, event_log=settings.tenants_query is None)
    tenants = find_tenants(connection, query=settings.tenants_query)
    fleet = [TEMPLATE, *tenants] if tenants and settings.tenants_query is None else tenants
    return plan_up(fleet, migrations, read_applied(connection, fleet, migrations))
