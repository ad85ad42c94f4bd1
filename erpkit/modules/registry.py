"""Which modules the ERP has: found through entry points, sorted, and checked before anything else starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules.module import (
    CommandHandler,
    EventHandler,
    ModuleLike,
    Query,
    QueryHandler,
    Upcaster,
    answers_of,
    topic_of,
    upcasters_of,
)
from erpkit.modules.order import load_order
from erpkit.modules.wiring import wiring_faults

__all__ = ["DEFAULT_GROUP", "SAMPLE_GROUP", "Registry", "find_modules", "load_modules"]

DEFAULT_GROUP = "erpkit.modules"
SAMPLE_GROUP = "erpkit.sample"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Registry:
    """The modules of one ERP in load order, with the look-ups that the buses need."""

    modules: tuple[ModuleLike, ...]

    @classmethod
    def of(cls, modules: Iterable[object]) -> Registry:
        """Sort `modules` and wire their messages to their handlers; raises ModuleError, naming the first culprit."""
        ordered = load_order(modules)
        for fault in wiring_faults(ordered):
            raise ModuleError(f"{fault.problem}: {fault.remedy}")
        return cls(ordered)

    def topic(self, message: type) -> str:
        """Return the topic of an event, command or query type; raises ModuleError when no module declares it."""
        try:
            return self._topics[message]
        except KeyError:
            raise ModuleError(
                f"no module publishes or handles {message.__name__}: list it in its module's record"
            ) from None

    def version(self, event: type) -> int:
        """Return the version in which an event is written: one more than its last upcaster's."""
        return len(self.upcasters(event)) + 1

    def upcasters(self, event: type) -> tuple[Upcaster, ...]:
        """Return the upcasters of an event, the one from version 1 first."""
        return self._upcasters.get(event, ())

    def command_handler(self, command: type) -> CommandHandler:
        """Return the one handler of a command; raises ModuleError when there is none."""
        for handler in (handler for module in self.modules for handler in module.commands):
            if handler.command is command:
                return handler
        raise ModuleError(f"command {command.__name__} has no handler: list one under its module's commands")

    def query_handler(self, query: type[Query[_Answer]]) -> QueryHandler[_Answer]:
        """Return the one handler of a query; raises ModuleError when there is none."""
        for handler in (handler for module in self.modules for handler in answers_of(module)):
            if handler.query is query:
                return handler
        raise ModuleError(f"query {query.__name__} has no handler: list one under its module's answers")

    @cached_property
    def event_handlers(self) -> dict[str, EventHandler]:
        """All event handlers by name, in load order."""
        return {handler.name: handler for module in self.modules for handler in module.subscribes}

    @cached_property
    def _topics(self) -> dict[type, str]:
        return {
            message: topic_of(module.name, message)
            for module in self.modules
            for messages in (
                module.publishes,
                (handler.command for handler in module.commands),
                (handler.query for handler in answers_of(module)),
            )
            for message in messages
        }

    @cached_property
    def _upcasters(self) -> dict[type, tuple[Upcaster, ...]]:
        found: dict[type, tuple[Upcaster, ...]] = {}
        everyone: list[Upcaster] = [upcaster for module in self.modules for upcaster in upcasters_of(module)]
        for upcaster in sorted(everyone, key=lambda upcaster: upcaster.from_version):
            found[upcaster.event] = (*found.get(upcaster.event, ()), upcaster)
        return found


def find_modules(settings: Settings) -> list[object]:
    """Load what is registered under the configured group, unchecked.

    With the embedded server and no module of one's own, that is the sample ERP. Raises ModuleError for an entry point that
    cannot be loaded.
    """
    group = settings.modules or DEFAULT_GROUP
    entries = entry_points(group=group)
    if not entries and settings.modules is None and settings.is_embedded:
        entries = entry_points(group=SAMPLE_GROUP)
    if not entries and settings.tenants_query is not None:
        return []  # another ERP's database can be read without its modules
    if not entries:
        raise ModuleError(
            f"no module is registered under the entry-point group {group}: see ERPKIT_MODULES in the README"
        )
    return [_load(entry) for entry in entries]


def load_modules(settings: Settings) -> Registry:
    """Find, sort and check the modules of the ERP; raises ModuleError, naming the culprit."""
    return Registry.of(find_modules(settings))


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except Exception as error:
        raise ModuleError(
            f"entry point {entry.name} ({entry.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
