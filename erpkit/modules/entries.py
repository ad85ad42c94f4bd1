"""Where the modules come from: entry points, a modules.toml, or folders of Odoo's addons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb

from erpkit.config import Settings, expand_home
from erpkit.errors import ModuleError, NoModulesError, describe_error
from erpkit.modules.wiring import Edge, ModuleFinding

DEFAULT_GROUP = "erpkit.modules"
SAMPLE_GROUP = "erpkit.sample"


@dataclass(frozen=True)
class Candidates:
    """What is registered, unchecked, and what is wrong with what could not be loaded."""

    modules: tuple[object, ...]
    faults: tuple[ModuleFinding, ...] = ()


def find_modules(settings: Settings) -> list[object]:
    """Load what is registered, unchecked; raises ModuleError at the first that cannot be loaded, and as `read_candidates`."""
    found = read_candidates(settings)
    for fault in found.faults:
        raise ModuleError(f"{fault.problem}; {fault.remedy}")
    return list(found.modules)


def read_candidates(settings: Settings) -> Candidates:
    """Load what is registered in the configured source: an entry-point group, or the path of a modules.toml.

    With the embedded server and no module of one's own, that is the sample ERP. Raises ModuleError for a source that is not
    there or registers nothing, and for a modules.toml that is not valid; NoModulesError where no source is named, either.
    """
    if settings.modules is not None and is_path(settings.modules):
        from erpkit.modules.manifest import read_manifest  # noqa: PLC0415 - pydantic is slow to import

        return Candidates(tuple(read_manifest(expand_home("ERPKIT_MODULES", settings.modules))))
    group = settings.modules or DEFAULT_GROUP
    entries = entry_points(group=group)
    if not entries and settings.modules is None and settings.is_embedded:
        entries = entry_points(group=SAMPLE_GROUP)
    if not entries and settings.tenants_query is not None:
        return Candidates(())  # another ERP's database can be read without its modules
    if not entries:
        kind = NoModulesError if settings.modules is None else ModuleError
        raise kind(f"no module is registered under the entry-point group {group}: see ERPKIT_MODULES in the README")
    return _load_all(group, entries)


def is_path(source: str) -> bool:
    """Tell a path from the name of a group, which is made of words and dots."""
    return source.endswith(".toml") or "/" in source or "\\" in source or source in (".", "..")


def _load_all(group: str, entries: Iterable[EntryPoint]) -> Candidates:
    by_name: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
    modules: list[object] = []
    faults: list[ModuleFinding] = []
    for name, same in by_name.items():
        if len(same) > 1:
            faults.append(_registered_twice(group, name, same))
            continue
        loaded = _load(same[0])
        if isinstance(loaded, ModuleFinding):
            faults.append(loaded)
        else:
            modules.append(loaded)
    return Candidates(tuple(modules), tuple(faults))


def _registered_twice(group: str, name: str, entries: Iterable[EntryPoint]) -> ModuleFinding:
    owners = [f"{entry.value}, from {entry.dist.name if entry.dist is not None else 'a path'}" for entry in entries]
    problem = f"entry point {name} is registered {len(owners)} times under {group}: {'; '.join(sorted(owners))}"
    return ModuleFinding("registered twice", (name,), problem, "uninstall or rename all but one")


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        problem = f"entry point {entry.name} ({entry.value}) cannot be loaded: {_reason(error)}"
        return ModuleFinding("cannot be loaded", (entry.name,), problem, "mend its import, or uninstall it")


def _reason(error: BaseException) -> str:
    """Return what an import failed of, and where, in one line."""
    said = describe_error(error)
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = frames[-1]
    is_ours = last.filename == __file__ or "importlib" in Path(last.filename).parts
    return said if is_ours else f"{said} ({last.filename}:{last.lineno})"


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
        from erpkit.modules.odoo import read_addons  # noqa: PLC0415 - few have addons

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
