"""Which modules the ERP has: sorted, and checked before anything else starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from erpkit.config import Settings
from erpkit.errors import ModuleError, UsageError
from erpkit.modules.entries import DEFAULT_GROUP, SAMPLE_GROUP, find_modules
from erpkit.modules.module import (
    CommandHandler,
    EventHandler,
    ModuleLike,
    Query,
    QueryHandler,
    Upcaster,
    answers_of,
    is_foreign,
    topic_of,
    upcasters_of,
)
from erpkit.modules.order import load_order
from erpkit.modules.wiring import wiring_faults

__all__ = ["DEFAULT_GROUP", "SAMPLE_GROUP", "Registry", "find_modules", "load_modules"]

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Registry:
    """The modules of one ERP in load order, with the look-ups that the buses need."""

    modules: tuple[ModuleLike, ...]

    @classmethod
    def of(cls, modules: Iterable[ModuleLike]) -> Registry:
        """Sort `modules` and wire their messages to their handlers; raises ModuleError, naming the first culprit."""
        return _wired(modules)

    def check_handlers(self) -> None:
        """Raise UsageError where no module's handlers can run here, as all are written in another language."""
        if self.modules and all(map(is_foreign, self.modules)):
            raise UsageError(
                f"a modules.toml describes {self.modules[0].name} and the others: their handlers are written in another "
                "language and do not run here"
            )

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
        """All event handlers by name, in load order; not those that are written in another language."""
        return {
            handler.name: handler for module in self.modules if not is_foreign(module) for handler in module.subscribes
        }

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


def load_modules(settings: Settings) -> Registry:
    """Find, sort and check the modules of the ERP; raises ModuleError, naming the culprit."""
    return _wired(find_modules(settings))


def _wired(candidates: Iterable[object]) -> Registry:
    ordered = load_order(candidates)
    for fault in wiring_faults(ordered):
        raise ModuleError(f"{fault.problem}: {fault.remedy}")
    return Registry(ordered)
