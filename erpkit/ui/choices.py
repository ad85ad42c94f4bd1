"""What there really is to choose from: tenants, topics, handlers and modules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import entry_points

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.errors import ErpkitError
from erpkit.modules import Registry, load_modules
from erpkit.runs import Parameter
from erpkit.tenants import find_tenants

__all__ = ["Choices"]

# Which parameters are picked from a list, by their names.
_KINDS = {
    "tenant": "tenants", "tenants": "tenants", "canaries": "tenants",
    "topic": "topics", "topics": "topics",
    "handler": "handlers", "handlers": "handlers", "side_effects": "handlers",
    "module": "modules", "modules": "modules", "impact": "modules",
}  # fmt: skip
_GROUPS = "erpkit."  # what the names of groups of modules begin with, beside the configured one


class Choices:
    """The choices for a notebook's parameters, read when they are first asked for.

    `notes` say what could not be read: a form is of use without it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.notes: list[str] = []

    def of(self, parameter: Parameter) -> Sequence[str] | None:
        """Return the choices for a parameter; None for one that is typed in."""
        kind = _KINDS.get(parameter.name)
        if parameter.name == "modules" and parameter.annotation == "str":
            kind = "groups"
        return None if kind is None else list(getattr(self, kind))

    @cached_property
    def tenants(self) -> list[str]:
        """Every tenant, by name."""
        try:
            with Database.open(self._settings) as database, database.connection() as connection:
                return [tenant.slug for tenant in find_tenants(connection, (), self._settings.tenants_query)]
        except ErpkitError as error:
            self.notes.append(f"tenants cannot be listed: {error}")
            return []

    @cached_property
    def topics(self) -> list[str]:
        """Patterns for all topics and for those of each module, then the topics of all that is published or handled."""
        modules = self._registry.modules
        events = [event for m in modules for event in (*m.publishes, *(handler.event for handler in m.subscribes))]
        topics = sorted({self._registry.topic(event) for event in events})
        return ["*", *dict.fromkeys(f"{topic.partition('.')[0]}.*" for topic in topics), *topics]

    @cached_property
    def handlers(self) -> list[str]:
        """Every event handler, by name."""
        return sorted(self._registry.event_handlers)

    @cached_property
    def modules(self) -> list[str]:
        """Every module, by name."""
        return [module.name for module in self._registry.modules]

    @cached_property
    def groups(self) -> list[str]:
        """The entry-point groups that modules are registered under."""
        groups = {group for group in entry_points().groups if group.startswith(_GROUPS) and group != "erpkit.demo"}
        return sorted(groups | ({self._settings.modules} if self._settings.modules else set()))

    @cached_property
    def _registry(self) -> Registry:
        try:
            return load_modules(self._settings)
        except ErpkitError as error:
            self.notes.append(f"modules cannot be read: {error}")
            return Registry.of(())
