"""The Python code of modules: each module's package, its files, and what lies beside them."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from erpkit.modules.module import ModuleLike
from erpkit.modules.python import Import, find_python, imports_in, parse_python
from erpkit.modules.wiring import Unread


@dataclass(frozen=True)
class PythonFile:
    """A Python file by its dotted name, parsed; `module` is the one that owns it, "" for a file beside the modules."""

    module: str
    name: str
    path: Path
    tree: ast.Module = field(repr=False, compare=False)

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """All its imports, however deep."""
        return tuple(imports_in(self.tree, self.package))

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of its tree, each before what is in it."""
        return tuple(ast.walk(self.tree))


class Code:
    """The Python files of modules, and on demand those beside them; `packages` are by module name.

    Folders in `roots` are searched for packages besides Python's own path. Nothing is imported.
    """

    def __init__(self, packages: Mapping[str, str], *, roots: Sequence[Path] = ()) -> None:
        self._packages = {package: module for module, package in packages.items()}
        self._roots = roots
        self._known: dict[str, bool] = {}
        self._places: dict[str, list[Path]] = {}
        self._near: dict[str, bool] = {}
        self.unread: list[Unread] = []

    def files(self) -> Iterator[PythonFile]:
        """Parse and yield each file of the modules; `unread` then has those that cannot be parsed, and missing packages.

        A file's tree is not kept: all of them together would take gigabytes, and four times as long.
        """
        for package in sorted(self._packages):
            yield from self._read_package(package)

    def owner(self, name: str) -> str:
        """Return the module that owns a dotted name: that of the nearest package above it, or ""."""
        while name:
            if name in self._packages:
                return self._packages[name]
            name = name.rpartition(".")[0]
        return ""

    @cached_property
    def tops(self) -> frozenset[str]:
        """The top-level packages that hold the modules."""
        return frozenset(package.partition(".")[0] for package in self._packages)

    @cached_property
    def _above(self) -> frozenset[str]:
        parts = (package.split(".") for package in self._packages)
        return frozenset(".".join(some[:length]) for some in parts for length in range(1, len(some)))

    def holds(self, package: str) -> bool:
        """Tell whether modules' packages are inside of a package."""
        return package in self._above

    def is_near(self, name: str) -> bool:
        """Tell whether a name's top-level package holds modules, or lies in the folder of one that does and is not installed."""
        top = name.partition(".")[0]
        if top in self.tops:
            return True
        if top not in self._near:
            here = {
                folder
                for known in self.tops
                for folder in self._top(known, "")
                if not folder.name.endswith("-packages")
            }
            self._near[top] = any((folder / top).is_dir() or (folder / f"{top}.py").is_file() for folder in here)
        return self._near[top]

    def exists(self, name: str) -> bool:
        """Tell whether a dotted name is a package or a file, rather than something inside of one."""
        if name not in self._known:
            self._known[name] = bool(self.folders(name)) or bool(self.paths(name))
        return self._known[name]

    def beside(self, name: str) -> PythonFile | None:
        """Return the file of a dotted name that no module owns, or None where there is none near the modules."""
        if self.owner(name) or not self.is_near(name):
            return None
        return next((source for path in self.paths(name) if (source := self._parse(path, "", name))), None)

    def _read_package(self, package: str) -> Iterator[PythonFile]:
        module = self._packages[package]
        folders, files = self.folders(package), self.paths(package)
        if not folders and not files:
            problem = f"imports of {module} were not read: there is no package {package}"
            self.unread.append(Unread(problem, modules=(module,)))
        for folder in folders:
            for path in find_python(folder):
                name = ".".join([package, *_dotted(path.relative_to(folder))])
                if self.owner(name) == module and (source := self._parse(path, module, name)):
                    yield source
        if not folders:
            yield from (source for path in files if (source := self._parse(path, module, package)))

    def _parse(self, path: Path, module: str, name: str) -> PythonFile | None:
        tree = parse_python(path, module)
        if isinstance(tree, Unread):
            self.unread.append(
                replace(tree, problem=f"{tree.problem}; its imports were not read", modules=(module,) if module else ())
            )
            return None
        return PythonFile(module, name, path, tree)

    def paths(self, name: str) -> list[Path]:
        """Return the file of a dotted name: `__init__.py` of a package, or else the one named so."""
        inits = [path for folder in self.folders(name) if (path := folder / "__init__.py").is_file()]
        parent, _, last = name.rpartition(".")
        above = self.folders(parent) if parent else self._top(name, ".py")
        return inits or [path for folder in above if (path := folder / f"{last}.py").is_file()]

    def folders(self, name: str) -> list[Path]:
        """Return the folders of a package by its dotted name; one without an `__init__.py` may have several."""
        if name not in self._places:
            parent, _, last = name.rpartition(".")
            above = self.folders(parent) if parent else self._top(name, "")
            self._places[name] = _loaded(name) or [path for folder in above if (path := folder / last).is_dir()]
        return self._places[name]

    def _top(self, name: str, ending: str) -> list[Path]:
        """Return the folders that hold a top-level package or file."""
        for root in self._roots:
            if (root / f"{name}{ending}").exists():
                return [root]
        try:
            spec = find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return []
        if spec is None:
            return []
        places = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
        return [Path(place).parent for place in places]


def _dotted(path: Path) -> tuple[str, ...]:
    return path.parts[:-1] if path.name == "__init__.py" else (*path.parts[:-1], path.stem)


def _loaded(name: str) -> list[Path]:
    """Return the folders of a package that is imported already: an editable installation may know better than the path."""
    return [path for place in getattr(sys.modules.get(name), "__path__", ()) if (path := Path(place)).is_dir()]


def find_packages(modules: Sequence[ModuleLike]) -> dict[str, str]:
    """Return the package of each module by its name: its attribute `package`, or else the package that holds its record.

    Where modules share a package, it is the file that holds the record of one alone. Modules that have neither, such as those
    in another language, are left out: an import cannot be attributed to one of them.
    """
    homes = _homes(modules)
    crowded = {
        name for name, count in Counter(h.__name__ for some in homes.values() for h in some).items() if count > 1
    }
    found = {m.name: package for m in modules if (package := _declared(m) or _home(homes[id(m)]))}
    shared = _shared(found)
    for module in modules:
        if found.get(module.name) in shared:
            alone = [h.__name__ for h in homes[id(module)] if h.__name__ not in crowded and h.__name__ not in shared]
            found[module.name] = min(alone, key=lambda name: (-name.count("."), name), default="")
    shared = _shared(found)
    return {name: package for name, package in found.items() if package and package not in shared}


def _declared(module: ModuleLike) -> str | None:
    return getattr(module, "package", None)


def _shared(found: Mapping[str, str]) -> set[str]:
    return {package for package, count in Counter(found.values()).items() if count > 1}


def _homes(modules: Sequence[ModuleLike]) -> dict[int, list[ModuleType]]:
    """Return the loaded Python modules that hold each record."""
    wanted: dict[int, list[ModuleType]] = {id(module): [] for module in modules}
    for loaded in list(sys.modules.values()):
        for value in list(getattr(loaded, "__dict__", {}).values()):
            if id(value) in wanted and loaded not in wanted[id(value)]:
                wanted[id(value)].append(loaded)
    return wanted


def _home(holders: Sequence[ModuleType]) -> str | None:
    """Return the deepest package, as those above only re-export the record; None for a script."""
    packages = sorted(_packages(holders), key=lambda name: (-name.count("."), name))
    return packages[0] if packages else None


def _packages(holders: Sequence[ModuleType]) -> Iterator[str]:
    for holder in holders:
        name = holder.__name__ if hasattr(holder, "__path__") else holder.__name__.rpartition(".")[0]
        if name:
            yield name
