"""What Python code reaches of another module without a statement that imports it: by a function, an attribute, or shared code."""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import resolve_name
from typing import Literal

from erpkit.couplings.imports import imported
from erpkit.couplings.source import Code, PythonFile
from erpkit.couplings.tables import Use
from erpkit.modules.wiring import Edge, shorten_path

_IMPORTERS = frozenset({"import_module", "__import__", "run_module", "resolve_name", "find_spec"})
_CALLS = re.compile(rf"{'|'.join(_IMPORTERS)}|getattr")
_QUOTED = re.compile(r"""["'](\w+)[.:]\w""")
_DOTTED = re.compile(r"\.*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?::[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)?")


@dataclass(frozen=True)
class Reach:
    """A dotted name that code reaches, and where; it is not `certain` where only a string has it."""

    name: str
    line: int
    column: int
    certain: bool


def find_reached(code: Code, file: PythonFile) -> list[Reach]:
    """Return the dotted names that a file reaches without a statement that imports them, of any owner.

    Certain are an import by a function whose argument is a literal (`import_module("shop.stock")`) and an attribute of an imported
    package (`import shop; shop.stock.models`). Any other string that is the dotted name of a module's file is not.
    """
    reader = _Reader(code, file)
    return list(reader.reached()) if reader.may_reach() else []


def hidden_edges(code: Code, file: PythonFile, reached: Sequence[Reach]) -> Iterator[Edge]:
    """Yield an edge for each file of another module that a file reaches, other than by a statement."""
    path, found = shorten_path(file.path), dict[str, Reach]()
    stated = {name for one in file.imports if code.owner(name := imported(code, one))}
    for one in reached:
        if code.owner(one.name) in ("", file.module) or any(f"{one.name}.".startswith(f"{name}.") for name in stated):
            continue
        if one.name not in found or (one.certain and not found[one.name].certain):
            found[one.name] = one
    for name, one in sorted(found.items()):
        words = f"{path}:{one.line} {'reaches' if one.certain else 'names'} {name}"
        yield Edge(file.module, code.owner(name), "import", words, path, one.line, one.column, one.certain)


class _Reader:
    """Reads the expressions of a file."""

    def __init__(self, code: Code, file: PythonFile) -> None:
        self._code, self._file = code, file

    def may_reach(self) -> bool:
        """Tell by its text and its imports whether a file is worth a look at all its expressions."""
        if self._bound:
            return True
        text = self._file.path.read_text(encoding="utf-8", errors="replace")
        return _CALLS.search(text) is not None or any(match[1] in self._code.tops for match in _QUOTED.finditer(text))

    def reached(self) -> Iterator[Reach]:
        """Yield the dotted names that the file reaches, not yet told apart by who owns them."""
        inner = set[int]()
        for node in self._file.nodes:
            if isinstance(node, ast.Attribute) and id(node) not in inner:
                inner.update(map(id, _inner(node)))
                yield from self._at(node, _dotted_of(node, self._bound), certain=True)
            elif isinstance(node, ast.Call):
                yield from self._at(node, self._called(node), certain=True)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and self._is_file(node.value):
                yield from self._at(node, node.value.replace(":", "."), certain=False)

    def _at(self, node: ast.expr, name: str, *, certain: bool) -> Iterator[Reach]:
        if name:
            yield Reach(name, node.lineno, node.col_offset + 1, certain)

    @cached_property
    def _bound(self) -> dict[str, str]:
        """The names that the file binds to packages, with the dotted names of these."""
        found = dict[str, str]()
        for one in self._file.imports:
            top = one.base.partition(".")[0]
            if not one.name and top in self._code.tops:
                found[one.alias or top] = one.base if one.alias else top
            elif one.name and self._is_package(f"{one.base}.{one.name}"):
                found[one.alias or one.name] = f"{one.base}.{one.name}"
        return found

    @cached_property
    def _importers(self) -> dict[str, str]:
        """What the file calls the functions that import: `from importlib import import_module as load`."""
        return {one.alias: one.name for one in self._file.imports if one.alias and one.name in _IMPORTERS}

    def _is_package(self, name: str) -> bool:
        return name.partition(".")[0] in self._code.tops and not self._code.owner(name) and self._code.exists(name)

    def _called(self, call: ast.Call) -> str:
        """Return what a call imports, or gets of a package by `getattr`; "" for any other."""
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        function = self._importers.get(called, called)
        literals = [
            one.value if isinstance(one, ast.Constant) and isinstance(one.value, str) else ""
            for one in call.args or [one.value for one in call.keywords if one.arg == "name"]
        ]
        if function == "getattr" and len(literals) > 1 and literals[1]:
            package = _dotted_of(call.args[0], self._bound)
            return f"{package}.{literals[1]}" if package else ""
        if function not in _IMPORTERS or not literals or not _DOTTED.fullmatch(literals[0]):
            return ""
        given = next(
            (one.value for one in call.keywords if one.arg == "package"), call.args[1] if len(call.args) > 1 else None
        )
        package = (
            given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else self._file.package
        )
        try:
            return resolve_name(literals[0].replace(":", "."), package)
        except ImportError:
            return ""

    def _is_file(self, text: str) -> bool:
        """Tell whether a string is the dotted name of a file in a module's package, or of something in one."""
        if text.partition(".")[0] not in self._code.tops or not _DOTTED.fullmatch(text):
            return False
        name, _, inside = text.partition(":")
        parent = name.rpartition(".")[0]
        is_inside = bool(self._code.owner(parent.rpartition(".")[0])) and self._code.exists(parent)
        return "." in text and bool(self._code.owner(name)) and (is_inside or bool(inside) or self._code.exists(name))


def _inner(node: ast.Attribute) -> Iterator[ast.Attribute]:
    """Yield the attributes that a chain of attributes begins with."""
    while isinstance(node.value, ast.Attribute):
        yield (node := node.value)


def _dotted_of(node: ast.expr, bound: dict[str, str]) -> str:
    """Return the dotted name of an attribute of a package, "" for anything else."""
    parts = list[str]()
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([bound[node.id], *reversed(parts)]) if isinstance(node, ast.Name) and node.id in bound else ""


@dataclass(frozen=True)
class _Step:
    """An import of a file of no module, or of `name` from it, and where it stands; or the use of a table."""

    file: str
    name: str
    place: str
    kind: Literal["import", "sql"] = "import"

    def __str__(self) -> str:
        return f"which {'uses' if self.kind == 'sql' else 'imports'} {self.file} ({self.place})"


class Chains:
    """Follows imports through code that no module owns: `catalog` imports `shared.prices`, which imports `billing`.

    Of a package that holds modules, only what it re-exports under the name that is imported is followed: it is imported whenever one of
    them is. Imports for types alone are not followed, and nor is erpkit itself. Of all ways from one module to another the shortest
    counts. `uses` tells what the strings of a file use of modules' tables: such code does it for each that imports it.
    """

    def __init__(self, code: Code, uses: Callable[[PythonFile], Iterable[Use]]) -> None:
        self._code, self._uses = code, uses
        self._steps: dict[tuple[str, str], list[tuple[_Step, str]]] = {}
        self._reached: dict[_Step, dict[str, tuple[_Step, ...]]] = {}
        self._found: dict[tuple[str, str], tuple[int, Edge]] = {}

    def note(self, file: PythonFile, reached: Sequence[Reach]) -> None:
        """Follow what a file imports of code that no module owns."""
        path = shorten_path(file.path)
        for step, line, column in self._imports(file, reached):
            for target, way in self._ways(step).items():
                length, _ = self._found.get((file.module, target), (len(way) + 1, None))
                if target != file.module and len(way) < length:
                    words = f"{path}:{line} imports {', '.join([step.file, *map(str, way)])}"
                    edge = Edge(file.module, target, way[-1].kind, words, path, line, column)
                    self._found[file.module, target] = len(way), edge

    def edges(self) -> list[Edge]:
        """Return an edge for each module that another reaches in this way, once all files are noted."""
        return [edge for _, edge in self._found.values()]

    def _imports(self, file: PythonFile, reached: Sequence[Reach]) -> Iterator[tuple[_Step, int, int]]:
        """Yield the imports of what no module owns, and the attributes of a package that may re-export."""
        for one in file.imports:
            name = imported(self._code, one)
            if not self._code.owner(name) and not one.is_for_types and self._is_followed(name):
                yield _Step(name, one.name if name == one.base else "", ""), one.line, one.column
        for reach in reached:
            package, _, name = reach.name.rpartition(".")
            if reach.certain and not self._code.owner(reach.name) and self._holds_modules(package):
                yield _Step(package, name, ""), reach.line, reach.column

    def _ways(self, start: _Step) -> dict[str, tuple[_Step, ...]]:
        """Return the shortest way to each module."""
        if start in self._reached:
            return self._reached[start]
        found = self._reached[start] = dict[str, tuple[_Step, ...]]()
        waiting, seen = deque[tuple[_Step, tuple[_Step, ...]]]([(start, ())]), {(start.file, start.name)}
        while waiting:
            here, way = waiting.popleft()
            for step, owner in self._next(here):
                key = (step.file, step.name)
                if owner not in found and key not in seen:
                    longer = (*way, step)
                    if owner:
                        found[owner] = longer
                    else:
                        seen.add(key)
                        waiting.append((step, longer))
        return found

    def _next(self, step: _Step) -> list[tuple[_Step, str]]:
        """Return what a file of no module imports, each once, with the module that owns it."""
        key = (step.file, step.name if self._holds_modules(step.file) else "")
        if key not in self._steps:
            steps = list(self._read(*key)) if self._is_followed(step.file) else []
            once = {(one.file, one.name): one for one in reversed(steps)}
            self._steps[key] = [(one, self._code.owner(one.file)) for one in reversed(once.values())]
            self._steps[key] += self._tables(*key)
        return self._steps[key]

    def _read(self, name: str, wanted: str) -> Iterator[_Step]:
        """Yield the imports of a file of no module; of a package that holds modules, those that bind `wanted`."""
        file = self._code.beside(name)
        if file is None or (self._holds_modules(name) and not wanted):
            return
        for one in file.imports:
            binds = wanted in ("", "*") or (one.alias or one.name) in (wanted, "*")
            if binds and not one.is_for_types:
                whole = imported(self._code, one)
                yield _Step(whole, one.name if whole == one.base else "", f"{shorten_path(file.path)}:{one.line}")
        for reach in () if wanted else find_reached(self._code, file):
            if reach.certain and self._code.owner(reach.name):
                yield _Step(reach.name, "", f"{shorten_path(file.path)}:{reach.line}")
        parent = name.rpartition(".")[0]
        if parent and not wanted and not self._holds_modules(parent):
            yield _Step(parent, "", shorten_path(file.path))  # whose `__init__.py` runs first

    def _tables(self, name: str, wanted: str) -> Iterator[tuple[_Step, str]]:
        """Yield the tables of modules that a file of no module uses for certain, with the module of each."""
        file = self._code.beside(name) if not wanted and self._is_followed(name) else None
        for use in self._uses(file) if file and not self._holds_modules(name) else ():
            if use.edge.certain:
                yield _Step(use.table, "", f"{use.edge.path}:{use.edge.line}", "sql"), use.edge.target

    def _holds_modules(self, package: str) -> bool:
        return self._code.holds(package)

    def _is_followed(self, name: str) -> bool:
        is_kit = f"{name}.".startswith("erpkit.") and not f"{name}.".startswith("erpkit.sample.")
        return self._code.is_near(name) and not is_kit
