"""Which modules the ERP has: found through entry points, sorted, and checked before anything else starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules.module import CommandHandler, EventHandler, ModuleLike, topic_of
from erpkit.modules.order import load_order

__all__ = ["DEFAULT_GROUP", "SAMPLE_GROUP", "Registry", "find_modules", "load_modules"]

DEFAULT_GROUP = "erpkit.modules"
SAMPLE_GROUP = "erpkit.sample"


@dataclass(frozen=True)
class Registry:
    """The modules of one ERP in load order, with the look-ups that the buses need."""

    modules: tuple[ModuleLike, ...]

    @classmethod
    def of(cls, modules: Iterable[object]) -> Registry:
        """Sort and check `modules`; raises ModuleError, as `load_order` does."""
        return cls(load_order(modules))

    def topic(self, message: type) -> str:
        """Return the topic of an event or command type; raises ModuleError when no module declares it."""
        for module in self.modules:
            if message in module.publishes or any(handler.command is message for handler in module.commands):
                return topic_of(module.name, message)
        raise ModuleError(f"no module publishes or handles {message.__name__}: list it in its module's record")

    def command_handler(self, command: type) -> CommandHandler:
        """Return the one handler of a command; raises ModuleError when there is none, or more."""
        handlers = [handler for module in self.modules for handler in module.commands if handler.command is command]
        if len(handlers) != 1:
            raise ModuleError(f"command {command.__name__} has {len(handlers)} handlers: it must have one")
        return handlers[0]

    @property
    def event_handlers(self) -> dict[str, EventHandler]:
        """All event handlers by name, in load order."""
        return {handler.name: handler for module in self.modules for handler in module.subscribes}


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
