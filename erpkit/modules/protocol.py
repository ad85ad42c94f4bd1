"""Whether an object is a module: checked by mypy where it is registered, and once more when the ERP starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from erpkit.errors import ModuleError
from erpkit.modules.module import CommandHandler, EventHandler, ModuleLike, QueryHandler, Tool, Upcaster

__all__ = ["check_module", "protocol_faults", "register", "short"]

_Module = TypeVar("_Module", bound=ModuleLike)


def register(module: _Module) -> _Module:
    """Return `module`, which mypy refuses if it is incomplete: `module = register(Stock())` beside the entry point.

    Raises ModuleError where mypy was not asked. The record `erpkit.Module` does not need it: it cannot be incomplete.
    """
    check_module(module)
    return module


def check_module(candidate: object) -> ModuleLike:
    """Return `candidate` if it is a module; raise ModuleError, saying what it lacks, if it is not."""
    faults = protocol_faults(candidate)
    if faults or not isinstance(candidate, ModuleLike):
        raise ModuleError(f"{short(candidate)} is no module ({'; '.join(faults)}): register an erpkit.Module")
    return candidate


def protocol_faults(candidate: object) -> list[str]:
    """Return what keeps an object from being a module, in words; [] for one that is."""
    if isinstance(candidate, type):
        return ["it is a class, not an object of it"]
    missing: list[str] = []
    wrong: list[str] = []
    for name, (fits, wanted) in _REQUIRED.items():
        try:
            value: object = getattr(candidate, name)
        except AttributeError:
            missing.append(name)
        except Exception as error:
            wrong.append(f"its {name} raises {type(error).__name__}")
        else:
            wrong += [] if fits(value) else [f"its {name} is {short(value)}, not {wanted}"]
    for name, (fits, wanted) in _OPTIONAL.items():
        if not fits(value := getattr(candidate, name, None)) and value is not None:
            wrong.append(f"its {name} is {short(value)}, not {wanted}")
    return [*([f"it lacks {', '.join(missing)}"] if missing else []), *wrong]


_Check = tuple[Callable[[object], bool], str]


def _several(kind: type, wanted: str) -> _Check:
    def fits(value: object) -> bool:
        return (
            isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, kind) for one in value)
        )

    return fits, wanted


def _one(kind: type, wanted: str) -> _Check:
    return lambda value: isinstance(value, kind), wanted


_FOLDER: _Check = (lambda value: value is None or isinstance(value, Path), "a pathlib.Path or None")
_REQUIRED: dict[str, _Check] = {
    "name": _one(str, "text"),
    "dependencies": _several(str, "a tuple of names"),
    "migrations": _FOLDER,
    "commands": _several(CommandHandler, "a tuple of erpkit.CommandHandler"),
    "publishes": _several(type, "a tuple of classes"),
    "subscribes": _several(EventHandler, "a tuple of erpkit.EventHandler"),
}
_OPTIONAL: dict[str, _Check] = {
    "queries": _FOLDER,
    "version_table": _one(str, "text"),
    "answers": _several(QueryHandler, "a tuple of erpkit.QueryHandler"),
    "upcasters": _several(Upcaster, "a tuple of erpkit.Upcaster"),
    "tables": _several(str, "a tuple of names or patterns"),
    "tools": _several(Tool, "a tuple of erpkit.Tool"),
    "lifespan": (callable, "a function"),
}


def short(value: object) -> str:
    """Return what an object looks like, in at most 60 characters, even where its repr fails."""
    try:
        text = repr(value)
    except Exception:
        return f"an object of {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"
