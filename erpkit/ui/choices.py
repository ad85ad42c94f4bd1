"""What can be chosen for a notebook's parameters: the real tenants, topics, handlers and modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.metadata import entry_points

import psycopg

from erpkit.config import Settings
from erpkit.database import Tenant
from erpkit.erp import Installation
from erpkit.errors import ErpkitError, UsageError, first_line
from erpkit.modules import EventHandler, Registry, load_modules
from erpkit.near import did_you_mean, find_near
from erpkit.runs import Parameter, list_notebooks, list_runs
from erpkit.runs.store import HistoryFile

# Which parameters are picked from a list, by their names; `ui.form` can be told otherwise.
_KINDS = {
    "tenant": "tenants", "tenants": "tenants", "canaries": "active",
    "topic": "topics", "topics": "topics",
    "handler": "handlers", "handlers": "handlers", "side_effects": "effects",
    "module": "modules", "modules": "modules", "impact": "modules", "cut": "edges",
    "table": "tables", "notebook": "notebooks",
}  # fmt: skip
KINDS = {*_KINDS.values(), "inactive", "rebuildable", "replayable", "risks"}
_TABLES = """
SELECT relname FROM pg_catalog.pg_class
 WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())
   AND relkind IN ('r', 'p', 'v', 'm', 'f')
 ORDER BY relname
"""
_GROUPS = "erpkit."  # what the names of groups of modules begin with, beside the configured one
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Offer:
    """The names that a field offers, and of those that it does not offer the reason, such as `is suspended`."""

    names: Sequence[str]
    refused: Mapping[str, str] = field(default_factory=dict)
    noun: str = ""

    def problem(self, name: str) -> str:
        """Return in words why a name cannot be taken; empty for one that can. A pattern is to fit one of the names."""
        if not {*self.names, *self.refused} - {"*"}:  # nothing could be read: the notebook itself will tell
            return ""
        if name in self.names or (_PATTERN & set(name) and any(fnmatchcase(one, name) for one in self.names)):
            return ""
        if name in self.refused:
            return f"{name} {self.refused[name]}"
        return f"there is no {f'{self.noun} ' if self.noun else ''}{name!r}: {did_you_mean(name, self._meant(name))}"

    def _meant(self, name: str) -> Collection[str]:
        """Return the names to tell of: those that are offered, and one that is refused where that is like the name."""
        return [*self.names, *find_near(name, {*self.names, *self.refused}, 1)]

    def likely_problem(self, text: str) -> str:
        """Return why a name, or one of an edge's, was probably mistyped: it is unknown, and like one that is known."""
        unknown = [name for name in map(str.strip, text.split("->")) if name not in self.names]
        return next((self.problem(name) for name in unknown if find_near(name, self.names, cutoff=0.75)), "")


class Choices:
    """The offers for a notebook's parameters, read when they are first asked for.

    `notes` say what could not be read: a form is of use without it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.notes: list[str] = []

    def of(self, parameter: Parameter, kind: str = "") -> Offer | None:
        """Return what is offered for a parameter, `kind` or else by its name; None for one that is typed in."""
        kind = kind or _KINDS.get(parameter.name, "")
        if parameter.name == "modules" and parameter.annotation == "str":
            kind = "groups"
        return getattr(self, kind) if kind else None

    @cached_property
    def target(self) -> str:
        """The name of the database for people; empty where the settings name none."""
        try:
            with Installation(self._settings) as erp:
                return erp.target
        except ErpkitError:
            return ""

    @cached_property
    def _fleet(self) -> list[Tenant]:
        try:
            with Installation(self._settings) as erp:
                return erp.find()
        except ErpkitError as error:
            self.notes.append(f"tenants cannot be listed: {error}")
            return []

    @property
    def tenants(self) -> Offer:
        """Every tenant, by name."""
        return Offer([tenant.slug for tenant in self._fleet], noun="tenant")

    @property
    def active(self) -> Offer:
        """The tenants that work is done for."""
        return self._of_status(active=True)

    @property
    def inactive(self) -> Offer:
        """The tenants that were suspended or archived, as those that leave are."""
        return self._of_status(active=False)

    def _of_status(self, *, active: bool) -> Offer:
        refused = {tenant.slug: f"is {tenant.status}" for tenant in self._fleet if tenant.is_active != active}
        return Offer([one.slug for one in self._fleet if one.slug not in refused], refused, "tenant")

    @cached_property
    def topics(self) -> Offer:
        """Patterns for all topics and for those of each module, then the topics of all that is published or handled."""
        modules = self._registry.modules
        events = [
            event for m in modules for event in (*m.publishes, *(e for handler in m.subscribes for e in handler.events))
        ]
        topics = sorted({self._registry.topic(event) for event in events})
        return Offer(["*", *dict.fromkeys(f"{topic.partition('.')[0]}.*" for topic in topics), *topics], noun="topic")

    @property
    def handlers(self) -> Offer:
        """Every event handler, by name."""
        return Offer(sorted(self._registry.event_handlers), noun="handler")

    @property
    def replayable(self) -> Offer:
        """The handlers that a replay uses without being asked for their side effects."""
        return self._handlers(lambda one: "has side effects" if one.has_side_effects else "")

    @property
    def effects(self) -> Offer:
        """The handlers with side effects."""
        return self._handlers(lambda one: "" if one.has_side_effects else "has no side effects")

    @property
    def rebuildable(self) -> Offer:
        """The handlers whose tables can be made anew from the events."""
        return self._handlers(
            lambda one: "has side effects" if one.has_side_effects else "" if one.writes else "declares no table"
        )

    def _handlers(self, refuse: _Refuse) -> Offer:
        reasons = {name: refuse(handler) for name, handler in self._registry.event_handlers.items()}
        refused = {name: reason for name, reason in reasons.items() if reason}
        return Offer(sorted(reasons.keys() - refused.keys()), refused, "handler")

    @property
    def modules(self) -> Offer:
        """Every module, by name."""
        return Offer([module.name for module in self._registry.modules], noun="module")

    @property
    def edges(self) -> Offer:
        """Every declared dependency of a module, as `sales->catalog`; what else they need is found by looking."""
        declared = [f"{module.name}->{other}" for module in self._registry.modules for other in module.dependencies]
        return Offer([*declared, *self.modules.names] if declared else [], noun="module")

    @cached_property
    def tables(self) -> Offer:
        """The tables of the first active tenant, which the others have, too."""
        tenant = next((tenant for tenant in self._fleet if tenant.is_active), None)
        if tenant is None:
            return Offer([])
        try:
            with Installation(self._settings) as erp, erp.database.tenant_transaction(tenant) as connection:
                return Offer([name for (name,) in connection.execute(_TABLES)], noun="table")
        except (ErpkitError, psycopg.Error) as error:
            self.notes.append(f"tables cannot be listed: {first_line(error)}")
            return Offer([])

    @cached_property
    def notebooks(self) -> Offer:
        """The notebooks of the kit, and others whose runs were recorded."""
        names = {name.rpartition("/")[2] for name in list_notebooks()}
        with (
            suppress(ErpkitError, psycopg.Error),
            Installation(self._settings) as erp,
            erp.database.connection() as connection,
        ):
            file = HistoryFile.beside(connection, self._settings.home)
            names |= {run.notebook for run in list_runs(connection, limit=2000, file=file)}
        return Offer(sorted(names), noun="notebook")

    @property
    def risks(self) -> Offer:
        """The risks that a repair can be asked to take."""
        return Offer(["fails", "loses"], noun="risk")

    @property
    def groups(self) -> Offer:
        """The entry-point groups that modules are registered under."""
        groups = {group for group in entry_points().groups if group.startswith(_GROUPS) and group != "erpkit.demo"}
        return Offer(sorted(groups | ({self._settings.modules} if self._settings.modules else set())))

    @cached_property
    def _registry(self) -> Registry:
        try:
            return load_modules(self._settings)
        except ErpkitError as error:
            self.notes.append(f"modules cannot be read: {error}")
            return Registry.of(())


_Refuse = Callable[[EventHandler], str]


def check_kinds(kinds: Iterable[str]) -> None:
    """Raise UsageError for a kind of choices that there is not."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"there is no kind of choices {kind!r}: {did_you_mean(kind, sorted(KINDS))}")
