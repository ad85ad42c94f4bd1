"""Imports between the packages of modules, read from the code by grimp, which imports and runs nothing of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from erpkit.errors import ModuleError
from erpkit.modules import ModuleLike
from erpkit.modules.wiring import Edge, place_of

if TYPE_CHECKING:
    from grimp import ImportGraph


def find_packages(modules: Sequence[ModuleLike]) -> dict[str, str]:
    """Return the package of each module by its name: the attribute `package`, else where its record was loaded from.

    Left out are those that have none (of another language, say), and those of which several are in one package: there
    an import cannot be attributed to one of them.
    """
    homes = _homes(modules)
    found = {
        m.name: package for m in modules if (package := getattr(m, "package", None) or _home(homes.get(id(m), [])))
    }
    shared = {package for package, count in Counter(found.values()).items() if count > 1}
    return {name: package for name, package in found.items() if package not in shared}


def _homes(modules: Sequence[ModuleLike]) -> dict[int, list[ModuleType]]:
    """Look into all loaded Python modules for those that hold a record."""
    wanted: dict[int, list[ModuleType]] = {id(module): [] for module in modules}
    for loaded in list(sys.modules.values()):
        for value in list(getattr(loaded, "__dict__", {}).values()):
            if id(value) in wanted and loaded not in wanted[id(value)]:
                wanted[id(value)].append(loaded)
    return wanted


def _home(holders: Sequence[ModuleType]) -> str | None:
    """Choose the package furthest down: what is above it only passes the record on. A script has none."""
    packages = sorted(_packages(holders), key=lambda name: (-name.count("."), name))
    return packages[0] if packages else None


def _packages(holders: Sequence[ModuleType]) -> Iterator[str]:
    for holder in holders:
        name = holder.__name__ if hasattr(holder, "__path__") else holder.__name__.rpartition(".")[0]
        if name:
            yield name


def import_edges(packages: Mapping[str, str]) -> list[Edge]:
    """Return an edge for each line of a module's package that imports from another's; `packages` are by module name.

    Raises ModuleError where grimp is missing, or cannot read the code.
    """
    if len(packages) < 2:
        return []
    graph = _read(sorted({package.partition(".")[0] for package in packages.values()}))
    owners = {package: name for name, package in packages.items()}
    owner_of = {module: owner for module in graph.modules if (owner := _owner(module, owners)) is not None}
    return [
        Edge(source, target, "import", _place(graph, importer, imported))
        for importer, source in sorted(owner_of.items())
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if (target := owner_of.get(imported)) not in (None, source)
    ]  # fmt: skip


def _read(roots: list[str]) -> ImportGraph:
    try:
        import grimp  # noqa: PLC0415 - optional
    except ImportError:
        raise ModuleError("grimp is not installed: pip install 'erpkit[graph]'") from None
    try:
        return grimp.build_graph(*roots, cache_dir=None)
    except Exception as error:  # of many kinds: a package that cannot be found, or a file that is not Python
        reason = next(iter(str(error).splitlines()), "")
        raise ModuleError(f"{', '.join(roots)}: {type(error).__name__}: {reason}") from error


def _owner(module: str, owners: Mapping[str, str]) -> str | None:
    """Return whose a Python module is: that of the nearest package above it."""
    while module:
        if module in owners:
            return owners[module]
        module = module.rpartition(".")[0]
    return None


def _place(graph: ImportGraph, importer: str, imported: str) -> str:
    details = graph.get_import_details(importer=importer, imported=imported)
    line = min((detail["line_number"] for detail in details), default=1)
    is_package = any(True for _ in graph.find_children(importer))
    return f"{place_of(importer, line, is_package=is_package)} imports {imported}"
