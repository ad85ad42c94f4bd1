"""`[tool.erpkit.modules]`: the rules of a check of modules, in a `modules.toml` or in the nearest `pyproject.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from erpkit.errors import UsageError, describe_error
from erpkit.modules.kinds import FINDINGS, NOT_READ, REFUSED
from erpkit.modules.rules import BASELINE, Grade, Layers, Rule, Rules
from erpkit.modules.wiring import Kind, Relation

TABLE = "[tool.erpkit.modules]"


class _Coupling(BaseModel):
    """One `[[tool.erpkit.modules.forbidden]]`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(alias="from", min_length=1)
    target: str = Field(alias="to", min_length=1)
    reason: str = ""
    kinds: list[Kind] = Field(default_factory=list)
    relation: Relation | None = None

    def rule(self, until: date | None = None) -> Rule:
        return Rule(self.source, self.target, self.reason, tuple(self.kinds), self.relation, until)


class _Allowed(_Coupling):
    """One `[[tool.erpkit.modules.allowed]]`: it says why, and may end."""

    reason: str = Field(min_length=1)
    until: date | None = None


class _Table(BaseModel):
    """The whole table."""

    model_config = ConfigDict(extra="forbid", strict=True)

    layers: list[str] = Field(default_factory=list)
    forbidden: list[_Coupling] = Field(default_factory=list)
    allowed: list[_Allowed] = Field(default_factory=list)
    severity: dict[str, Grade] = Field(default_factory=dict)
    exclude: list[str] = Field(default_factory=list)
    type_checking_imports: bool = True
    strict: bool = False
    baseline: str = ""

    @field_validator("layers", mode="before")
    @classmethod
    def _split(cls, layers: object) -> object:
        return [layer.strip() for layer in layers.split(">")] if isinstance(layers, str) else layers

    @field_validator("severity")
    @classmethod
    def _check_kinds(cls, severity: dict[str, Grade]) -> dict[str, Grade]:
        found = {kind.replace("-", " "): grade for kind, grade in severity.items()}
        for kind, grade in found.items():
            if kind not in FINDINGS:
                near = difflib.get_close_matches(kind, FINDINGS, n=1)
                raise ValueError(f"there is no finding {kind!r}{f'; did you mean {near[0]!r}?' if near else ''}")
            if kind in (NOT_READ, "no modules") and grade in ("info", "off"):
                raise ValueError(f"{kind!r} cannot be {grade!r}: list files that are not to be read under exclude")
            if kind in REFUSED and grade != "error":
                raise ValueError(f"{kind!r} cannot be {grade!r}, as start-up refuses it")
        return found


def read_rules(modules: Path | None = None) -> Rules:
    """Read the rules from the `modules.toml` given, or else from the nearest `pyproject.toml` that has them.

    That is one in the folder of the modules.toml, or in the working folder, or above it. A `modules-baseline.json` there is the
    baseline unless the rules name another. Raises UsageError, naming file and key, for rules that are not understood.
    """
    start = (modules.absolute().parent if modules else Path.cwd()).absolute()
    places = [*([modules] if modules else []), *(here / "pyproject.toml" for here in (start, *start.parents))]
    for path in places:
        if (table := _table(path)) is not None:
            return _rules(path, table)
    return Rules(baseline=start / BASELINE)


def _table(path: Path) -> dict[str, Any] | None:
    """Return the table of a file, None where there is no such file or table."""
    try:
        found: Any = tomllib.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read, so its {TABLE} is not known: {describe_error(error)}") from None
    for key in ("tool", "erpkit", "modules"):
        found = found.get(key) if isinstance(found, dict) else None
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{path}: {TABLE} is no table: write it with one bracket on each side")
    return found


def _rules(path: Path, table: Mapping[str, Any]) -> Rules:
    try:
        read = _Table.model_validate(table)
        layers = Layers.parse(" > ".join(read.layers))
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        raise UsageError(f"{path}: {TABLE}: {_describe(first['loc'], first['type'], first['msg'])}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {TABLE}: {error}") from None
    return Rules(
        layers=layers,
        forbidden=tuple(one.rule() for one in read.forbidden),
        allowed=tuple(one.rule(one.until) for one in read.allowed),
        severities=read.severity,
        excluded=tuple(read.exclude),
        for_types=read.type_checking_imports,
        strict=read.strict,
        baseline=path.absolute().parent / (read.baseline or BASELINE),
        path=str(path),
    )


_KEYS = {
    "forbidden": ("from", "to", "reason", "kinds", "relation"), "allowed": ("from", "to", "reason", "kinds", "relation", "until"),
}  # fmt: skip


def _describe(where: Sequence[int | str], kind: str, said: str) -> str:
    """Translate pydantic's error into the file's terms: the key, and what it should be."""
    place = ".".join(f"{one}" if isinstance(one, str) else f"number {one + 1}" for one in where)
    if kind == "extra_forbidden":
        known = list(_KEYS.get(str(where[0]), _Table.model_fields) if len(where) > 1 else _Table.model_fields)
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        return f"unknown key {place}; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(known)}"
    said = said.removeprefix("Value error, ")
    return f"{place} is missing" if kind == "missing" else f"{place}: {said[0].lower()}{said[1:]}"
