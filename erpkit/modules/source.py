"""Where modules are read from for a check: entry points, a `modules.toml` or folders of Odoo's addons, faults and all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from erpkit.config import Settings
from erpkit.errors import NoModulesError
from erpkit.modules.edges import Edge
from erpkit.modules.entries import DEFAULT_GROUP, SAMPLE_GROUP, Candidates, read_candidates
from erpkit.modules.odoo import read_addons
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

    A folder's path as `settings.modules` is a folder of addons, too. Raises ModuleError or
    UsageError for a source that is named and is not there.
    """
    named = Path(settings.modules) if settings.modules else None
    if not odoo and named is not None and named.is_dir():
        odoo = [named]
    if odoo:
        addons = read_addons(odoo)
        name = f"Odoo's addons in {', '.join(map(str, odoo))}"
        return Source(name, addons.modules, addons.findings, addons.imports, addons.outside, indirect=True)
    try:
        found = read_candidates(settings)
    except NoModulesError:
        found = Candidates(())  # which is a finding
    return Source(_name_of(settings), found.modules, found.faults)


def _name_of(settings: Settings) -> str:
    if settings.modules is None and settings.is_embedded and not entry_points(group=DEFAULT_GROUP):
        return SAMPLE_GROUP
    return settings.modules or DEFAULT_GROUP
