"""Imports between the packages of modules, read from the code by grimp, which imports and runs nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from erpkit.errors import ModuleError
from erpkit.modules.edges import Edge, place_of

if TYPE_CHECKING:
    from grimp import ImportGraph

__all__ = ["import_edges"]


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
