"""The application: one function puts it together from the modules, and takes it apart again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar
from uuid import uuid4

from erpkit.app.refusal import RefusedError
from erpkit.config import Settings
from erpkit.database import TEMPLATE, Connection, Database, Tenant
from erpkit.errors import ErpkitError, MigrationError, ModuleError, UsageError, describe_error
from erpkit.events import (
    CommandBus,
    Context,
    Message,
    QueryBus,
    Worker,
    WorkerReport,
    append,
    carry_out,
    encode,
    find_answer,
)
from erpkit.migrations import MigrationPlan, plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import ModuleLike, Query, Registry, Tool, load_modules, tools_of
from erpkit.tenants import ensure_template, find_tenants, look_up
from erpkit.tenants.registry import has_event_log

_Answer = TypeVar("_Answer")


@dataclass
class Call(Context):
    """What a route or a tool works with: a handler's Context, with the two buses inside its transaction.

    `public` holds the public objects of the modules that have one, by name. What is published, by itself or by the commands
    that it sends, is written to the log in the same transaction. The application's own buses would take a second connection
    and know nothing of this transaction: use `send` and `ask`.
    """

    public: Mapping[str, Any] = field(default_factory=dict)

    def send(self, command: object) -> None:
        """Let a command's handler carry it out inside this transaction; raises what the handler raises."""
        self.published += carry_out(command, self._within(command))

    def ask(self, query: Query[_Answer]) -> _Answer:
        """Return a query's answer, as it is inside this transaction."""
        return find_answer(query, self._within(query))

    def _within(self, value: object) -> Context:
        topic, version = self.registry.topic(type(value)), self.registry.version(type(value))
        message = self.message.cause(topic, encode(value), str(uuid4()), version)
        return Context(self.connection, self.tenant, message, self.registry, topic)


@contextmanager
def enter_call(
    database: Database, registry: Registry, public: Mapping[str, Any], tenant: Tenant, name: str, *, write: bool
) -> Iterator[Call]:
    """Lend a Call named `name`, for people, inside a transaction of `tenant`, which commits at the end if it may `write`.

    What was published goes to the log as the last step; a call that only reads may publish nothing.
    """
    uuid = uuid4()
    message = Message(name, {}, uuid, {"name": name, "correlation_id": str(uuid)})
    with database.tenant_transaction(tenant, write=write, active=write) as connection:
        call = Call(connection, tenant, message, registry, name, public=public)
        yield call
        if call.published and not write:
            raise ErpkitError(f"{name}: a query or a tool that only reads cannot publish events")
        append(connection, call.published)


def import_optional(module: str, extra: str) -> ModuleType:
    """Import a module of erpkit's that needs the libraries of an extra; raises UsageError, naming the extra, without them."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library == "erpkit":
            raise
        raise UsageError(f"{library} is not installed: pip install 'erpkit[{extra}]'") from None


def load_routes(module: str, routes: object) -> object:
    """Return the routes of a module, imported if they are `package.module:name`; raises ModuleError where that fails."""
    if not isinstance(routes, str):
        return routes
    place, _, name = routes.partition(":")
    try:
        import_module(place)
        return getattr(sys.modules[place], name)
    except Exception as error:
        raise ModuleError(f"module {module}: its routes {routes} cannot be loaded: {describe_error(error)}") from error


@contextmanager
def started(modules: Sequence[ModuleLike]) -> Iterator[Mapping[str, Any]]:
    """Start `modules`, given in load order, for the time of the block; lend their public objects by name.

    A module's `lifespan` is given the public objects of those that it depends on. Raises ModuleError for one that does not
    start, naming it and those that needed it, when those that had started are stopped again; and for those that do not stop.
    """
    public: dict[str, Any] = {}
    running: list[tuple[str, Any]] = []
    try:
        for module in modules:
            _start(module, modules, public, running)
        yield public
    except BaseException as error:
        for name, reason in _stop(running):
            error.add_note(f"module {name} did not stop: {reason}")
        raise
    if failed := _stop(running):
        raise ModuleError("; ".join(f"module {name} did not stop: {reason}" for name, reason in failed))


def dependents_of(name: str, modules: Sequence[ModuleLike]) -> list[str]:
    """Return the names of the modules that need `name`, by way of others too, in load order. Pure."""
    needing = {name}
    for module in modules:
        if needing & set(module.dependencies):
            needing.add(module.name)
    return [module.name for module in modules if module.name in needing and module.name != name]


def _start(
    module: ModuleLike, modules: Sequence[ModuleLike], public: dict[str, Any], running: list[tuple[str, Any]]
) -> None:
    lifespan = getattr(module, "lifespan", None)
    if lifespan is None:
        return
    try:
        life = lifespan({name: public[name] for name in module.dependencies if name in public})
        public[module.name] = life.__enter__()
    except Exception as error:
        needing = dependents_of(module.name, modules)
        others = f"; {', '.join(needing)} need{'s' if len(needing) == 1 else ''} it" if needing else ""
        raise ModuleError(
            f"module {module.name} did not start: {describe_error(error)}{others}: nothing is running"
        ) from error
    running.append((module.name, life))


def _stop(running: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Stop in reverse order, each one whatever became of the others; return those that failed with the reason."""
    failed = []
    for name, life in reversed(running):
        try:
            life.__exit__(None, None, None)
        except Exception as error:
            failed.append((name, describe_error(error)))
    return failed


@contextmanager
def dispatching(
    database: Database, registry: Registry, on_report: Callable[[WorkerReport], object]
) -> Iterator[Worker]:
    """Hand events to their handlers in a thread for the time of the block; the batch in flight is finished at its end."""
    database.check_writable()
    worker = Worker(database, registry, find_tenants, on_report)
    thread = threading.Thread(target=worker.run, name="erpkit-dispatch", daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


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

    def list_tenants(self) -> list[Tenant]:
        """Return all tenants, active or not."""
        with self.database.connection() as connection:
            return find_tenants(connection, query=self.tenants_query)

    def admit(self, slug: str, *, write: bool) -> Tenant:
        """Return the active tenant of this name; raises RefusedError where there is none, or where nothing may be written."""
        if write and not self.database.is_writable:
            raise RefusedError(403, "this database is only read")
        tenant = self.find_tenant(slug)
        if tenant is None:
            raise RefusedError(404, f"there is no tenant {slug[:48]!r}")
        if not tenant.is_active:
            raise RefusedError(403, f"tenant {slug} is {tenant.status}")
        return tenant

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
        more = f"; and {len(undone) - 3:,} more" if len(undone) > 3 else ""
        raise MigrationError(f"migrations failed, and nothing is running: {told}{more}")
    return ()


def _plan(connection: Connection, registry: Registry, settings: Settings) -> MigrationPlan:
    migrations = read_migrations(
        registry.modules, event_log=settings.tenants_query is None and has_event_log(connection)
    )
    tenants = find_tenants(connection, query=settings.tenants_query)
    fleet = [TEMPLATE, *tenants] if tenants and settings.tenants_query is None else tenants
    return plan_up(fleet, migrations, read_applied(connection, fleet, migrations))
