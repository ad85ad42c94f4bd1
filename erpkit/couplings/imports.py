"""Imports from one module's code in another's."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping

from erpkit.couplings.source import Code, PythonFile
from erpkit.modules.python import Import, dotted, imports_in
from erpkit.modules.wiring import Edge, shorten_path


def import_edges(code: Code, file: PythonFile, events: Mapping[str, Collection[str]]) -> Iterator[Edge]:
    """Yield an edge for each file of another module that a file imports, at its first line.

    A file that imports nothing but the `events` of a module, which are their names by module, only listens to it.
    """
    path = shorten_path(file.path)
    for name, several in sorted(_imports(code, file).items()):
        target = code.owner(name)
        if target and target != file.module:
            published = {*events.get(target, ())}
            required = [one for one in several if not published or not _used(file, one, name) <= published]
            first = min(required or several, key=lambda one: one.is_for_types)
            yield Edge(
                file.module, target, "import", f"{path}:{first.line} imports {name}", path, first.line, first.column,
                relation="requires" if required else "listens", for_types=first.is_for_types,
            )  # fmt: skip


def _imports(code: Code, file: PythonFile) -> dict[str, list[Import]]:
    """Return the imports of a file by the dotted name of what they read, each name's in the order of the file."""
    found: dict[str, list[Import]] = {}
    for one in sorted(imports_in(file.tree, file.package), key=lambda one: (one.line, one.column)):
        if one.base.partition(".")[0] in code.tops:
            found.setdefault(imported(code, one), []).append(one)
    return found


def _used(file: PythonFile, one: Import, name: str) -> set[str]:
    """Return the names that an import brings from a file: one alone, or all attributes of a file that is imported whole."""
    if name == one.base and one.name:
        return {one.name}
    alias = one.alias or one.name or one.base
    nodes = (node for node in ast.walk(file.tree) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if dotted(node.value) == alias} or {"*"}


def imported(code: Code, one: Import) -> str:
    """Return the dotted name of the file or package that an import reads."""
    whole = f"{one.base}.{one.name}"
    if one.name and one.name != "*" and (code.owner(whole) != code.owner(one.base) or code.exists(whole)):
        return whole
    return one.base
