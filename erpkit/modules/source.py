"""Where modules are read from for a check: entry points, a `modules.toml` or a folder of Odoo's addons, faults and all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from erpkit.config import Settings
from erpkit.errors import ModuleError
from erpkit.modules.edges import Edge
from erpkit.modules.odoo import read_addons
from erpkit.modules.registry import DEFAULT_GROUP, SAMPLE_GROUP, find_modules
from erpkit.modules.wiring import ModuleFinding

__all__ = ["Source", "read_source"]


@dataclass(frozen=True)
class Source:
    """Candidates for modules and what was wrong on the way to them; `imports` were read with them, of Odoo's addons.

    Modules `outside` exist elsewhere; with `indirect`, what is declared by way of others is declared well enough.
    """

    name: str
    candidates: tuple[object, ...]
    findings: tuple[ModuleFinding, ...] = ()
    imports: tuple[Edge, ...] | None = None
    outside: tuple[str, ...] = ()
    indirect: bool = False


def read_source(settings: Settings, odoo: Sequence[Path] = ()) -> Source:
    """Read what `settings.modules` names, or folders of Odoo's addons; an entry point that cannot be loaded is a finding.

    A folder's path as `settings.modules` is a folder of addons, too. Raises ModuleError or UsageError where there is nothing
    to read at all.
    """
    named = Path(settings.modules) if settings.modules else None
    if not odoo and named is not None and named.is_dir():
        odoo = [named]
    if odoo:
        addons = read_addons(odoo)
        name = f"Odoo's addons in {', '.join(map(str, odoo))}"
        return Source(name, addons.modules, addons.findings, addons.imports, addons.outside, indirect=True)
    group = _group_of(settings)
    entries = list(entry_points(group=group))
    try:
        return Source(group, tuple(find_modules(settings)), tuple(_named_twice(entries)))
    except (ModuleError, SystemExit):
        if not entries:
            raise
        return _one_by_one(group, entries)


def _group_of(settings: Settings) -> str:
    """The group that `find_modules` reads, which tells it to nobody."""
    if settings.modules is None and settings.is_embedded and not entry_points(group=DEFAULT_GROUP):
        return SAMPLE_GROUP
    return settings.modules or DEFAULT_GROUP


def _one_by_one(name: str, entries: Sequence[EntryPoint]) -> Source:
    loaded, findings = [], [*_named_twice(entries)]
    for entry in entries:
        try:
            loaded.append(entry.load())
        except (Exception, SystemExit) as error:
            reason = next(iter(str(error).splitlines()), "")
            problem = f"entry point {entry.name} ({entry.value}) cannot be loaded: {type(error).__name__}: {reason}"
            findings.append(ModuleFinding("import failed", (entry.name,), problem, "mend what it imports"))
    return Source(name, tuple(loaded), tuple(findings))


def _named_twice(entries: Sequence[EntryPoint]) -> Iterator[ModuleFinding]:
    for name, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            places = tuple(_where(entry) for entry in entries if entry.name == name)
            problem = f"{count} entry points are named {name}"
            yield ModuleFinding("duplicate entry point", (name,), problem, "rename or uninstall all but one", places)


def _where(entry: EntryPoint) -> str:
    return f"{entry.value}, of {entry.dist.name}" if entry.dist else entry.value
