"""Imports from one module's code in another's."""

from __future__ import annotations

from collections.abc import Iterator

from erpkit.couplings.source import Code, PythonFile
from erpkit.modules.python import Import, imports_in
from erpkit.modules.wiring import Edge, shorten_path


def import_edges(code: Code, file: PythonFile, *, for_types: bool = True) -> Iterator[Edge]:
    """Yield an edge for each file of another module that a file imports, at its first line.

    Without `for_types`, imports below `if TYPE_CHECKING` are left out.
    """
    found: dict[str, Import] = {}
    for one in sorted(imports_in(file.tree, file.package), key=lambda one: (one.line, one.column)):
        if one.base.partition(".")[0] in code.tops and (for_types or not one.is_for_types):
            found.setdefault(imported(code, one), one)
    path = shorten_path(file.path)
    for name, one in sorted(found.items()):
        target = code.owner(name)
        if target and target != file.module:
            words = f"{path}:{one.line} imports {name}"
            yield Edge(file.module, target, "import", words, path, one.line, one.column)


def imported(code: Code, one: Import) -> str:
    """Return the dotted name of the file or package that an import reads."""
    whole = f"{one.base}.{one.name}"
    if one.name and one.name != "*" and (code.owner(whole) != code.owner(one.base) or code.exists(whole)):
        return whole
    return one.base
