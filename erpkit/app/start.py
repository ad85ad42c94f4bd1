"""Starting modules, each with what it depends on, and stopping them in reverse order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from erpkit.errors import ModuleError, describe_error
from erpkit.modules import ModuleLike

__all__ = ["dependents_of", "started"]


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
