"""modules.toml: the modules of an ERP in any language, as text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from erpkit.errors import ModuleError
from erpkit.modules.module import EventHandler, Module
from erpkit.modules.wiring import Place, shorten_path
from erpkit.near import did_you_mean

_HEADER = re.compile(r"\s*\[\[\s*module\s*\]\]")
_EVENT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_SUBSCRIPTION = re.compile(r"([a-z][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9_-]*)", re.ASCII)


@dataclass(frozen=True)
class ForeignModule(Module):
    """A module that is only described here: its events are names, and its handlers run elsewhere."""

    is_foreign: bool = field(default=True, init=False)
    place: Place = field(default=Place("modules.toml"), compare=False)
    root: Path | None = field(default=None, compare=False)  # the folder of the modules.toml

    def declared_at(self, dependency: str) -> Place:
        """Return where the module is described, by file and line."""
        return replace(self.place, text=f"depends on {dependency}")


class _Entry(BaseModel):
    """One `[[module]]`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    depends: list[str] = Field(default_factory=list)
    migrations: str | None = None
    queries: str | None = None
    publishes: list[str] = Field(default_factory=list)
    subscribes: list[str] = Field(default_factory=list)
    prefix: str | None = None
    tables: list[str] | None = None
    version_table: str | None = None
    multi_statement: bool = False
    package: str | None = None


class _Manifest(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    module: list[_Entry] = Field(min_length=1)
    shared_schemas: list[str] = Field(default_factory=list)  # these are read by Settings.from_env
    writable_schemas: list[str] = Field(default_factory=list)
    retention: list[str] = Field(default_factory=list)
    thresholds: list[str] = Field(default_factory=list)
    allowed_functions: list[str] = Field(default_factory=list)
    migration_state: list[str] = Field(default_factory=list)
    pooler: str = ""
    tool: dict[str, Any] = Field(default_factory=dict)  # [tool.erpkit.modules] is read by `read_rules`


def read_manifest(path: Path) -> list[ForeignModule]:
    """Read the modules that a modules.toml describes; folders in it are relative to it.

    Raises ModuleError, naming the file, the module and the key, for what is not TOML, unknown, of a wrong type, or a folder
    that is not there.
    """
    text = _read(path)
    manifest = _validate(path, _parse(path, text))
    messages = _Messages()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    lines += [1] * (len(manifest.module) - len(lines))  # it may be written as one array
    return [_module(path, entry, line, messages) for entry, line in zip(manifest.module, lines, strict=False)]


class _Messages:
    """A type for each topic, the same one for those that publish it and those that subscribe to it."""

    def __init__(self) -> None:
        self._types: dict[str, type] = {}

    def type_of(self, module: str, event: str) -> type:
        """Return the type of an event; all that is known of it is its name."""
        topic = f"{module}.{event}"
        if topic not in self._types:
            self._types[topic] = type(event, (), {"__doc__": f"The event {topic}, which another language defines."})
        return self._types[topic]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors on Windows put a mark before the text
    except OSError as error:
        raise ModuleError(f"{path}: {error.strerror}: see ERPKIT_MODULES in the notebook guide/own_erp") from None
    except UnicodeDecodeError:
        raise ModuleError(f"{path}: is not UTF-8") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else f"is not TOML: {error}"
        raise ModuleError(f"{path}: {reason}") from None


def _validate(path: Path, document: Mapping[str, Any]) -> _Manifest:
    try:
        return _Manifest.model_validate(document)
    except ValidationError as error:
        # A misspelt key explains the one that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        raise ModuleError(f"{path}: {_describe(document, first['loc'], first['type'], first['msg'])}") from None


def _describe(document: Mapping[str, Any], where: Sequence[int | str], kind: str, said: str) -> str:
    """Translate pydantic's error into the file's terms: the module by its name, the key, and what it should be."""
    place, fields, key = _place(document, where)
    if kind == "extra_forbidden":
        return f"{place}unknown key {key}; {did_you_mean(key, fields)}"
    if key == "module" and kind in ("missing", "too_short"):
        return "describes no module: write [[module]] and its name"
    if kind == "missing":
        return f"{place}has no {key}"
    return f"{place}{key}: {said[0].lower()}{said[1:]}"


def _place(document: Mapping[str, Any], where: Sequence[int | str]) -> tuple[str, list[str], str]:
    if len(where) < 2:
        return "", list(_Manifest.model_fields), str(where[0]) if where else "module"
    entry, number = document["module"][where[1]], int(where[1]) + 1
    name = entry.get("name") if isinstance(entry, dict) else None
    place = f"module {name}: " if isinstance(name, str) else f"module number {number}: "
    return place, list(_Entry.model_fields), str(where[2]) if len(where) > 2 else "it"


def _module(path: Path, entry: _Entry, line: int, messages: _Messages) -> ForeignModule:
    place = f"{path}: module {entry.name}"
    return ForeignModule(
        name=entry.name,
        dependencies=tuple(entry.depends),
        migrations=_folder(place, path, "migrations", entry.migrations),
        queries=_folder(place, path, "queries", entry.queries),
        publishes=tuple(messages.type_of(entry.name, _event(place, entry.name, event)) for event in entry.publishes),
        subscribes=tuple(_handler(place, entry.name, topic, messages) for topic in entry.subscribes),
        tables=_tables(entry),
        version_table=entry.version_table,
        multi_statement=entry.multi_statement,
        package=entry.package,
        place=Place(shorten_path(path.absolute()), line),
        root=path.absolute().parent,
    )


def _folder(place: str, path: Path, key: str, folder: str | None) -> Path | None:
    if folder is None:
        return None
    found = path.absolute().parent / folder
    if key != "queries" and not found.is_dir():  # git keeps no empty folder: what reads the queries names it
        raise ModuleError(f"{place}: {key}: there is no folder {found}")
    return found


def _tables(entry: _Entry) -> tuple[str, ...] | None:
    if entry.prefix is None and entry.tables is None:
        return None
    return (*([f"{entry.prefix}*"] if entry.prefix is not None else []), *(entry.tables or []))


def _event(place: str, module: str, event: str) -> str:
    name = event.removeprefix(f"{module}.")
    if not _EVENT.fullmatch(name):
        raise ModuleError(
            f"{place}: publishes: {event!r} is not an event of {module}: write its name alone, OrderPlaced say"
        )
    return name


def _handler(place: str, module: str, topic: str, messages: _Messages) -> EventHandler:
    found = _SUBSCRIPTION.fullmatch(topic)
    if found is None:
        raise ModuleError(f"{place}: subscribes: {topic!r} is not a topic: write sales.OrderPlaced, module first")
    return EventHandler(f"{module}.on_{topic.replace('.', '_')}", messages.type_of(found[1], found[2]), _elsewhere)


def _elsewhere(_event: object, context: Any) -> NoReturn:
    raise ModuleError(f"{context.handler} is written in another language: modules.toml only describes it")
