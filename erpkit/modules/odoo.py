"""Odoo's addons as modules: `__manifest__.py` is parsed, and never executed.

The keys and their defaults are those of Odoo's own `odoo/modules/module.py`.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError
from erpkit.modules.module import CommandHandler, EventHandler
from erpkit.modules.python import find_python, imports_in, parse_python, unreadable
from erpkit.modules.wiring import Edge, ModuleFinding, Place, Unread, shorten_path

_MANIFESTS = ("__manifest__.py", "__openerp__.py")
_LONG = 4  # letters of a word in which one may be wrong
_BIGGEST = 1_000_000  # bytes of a manifest
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "depends": (list, tuple),
    "category": (str,),
    "version": (str,),
    "installable": (bool, int),
    "auto_install": (bool, int, list, tuple, set),
}  # fmt: skip
_SKIPPED = {"node_modules", "__pycache__", "setup"}  # OCA's setup folders link to the same addons once more


@dataclass(frozen=True)
class OdooModule:
    """An addon; its name is its folder's, `title` what people call it."""

    name: str
    path: Path
    title: str = ""
    dependencies: tuple[str, ...] = ()
    category: str = ""
    version: str = ""
    installable: bool = True
    auto_install: bool = False
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    migrations: Path | None = None
    commands: tuple[CommandHandler, ...] = ()
    publishes: tuple[type, ...] = ()
    subscribes: tuple[EventHandler, ...] = ()
    tables: tuple[str, ...] = ()

    def declared_at(self, dependency: str) -> Place:
        """Return file and line at which a dependency is declared."""
        return Place(self._shown, self.lines.get(dependency, 1))

    @cached_property
    def _shown(self) -> str:
        return shorten_path(self.path)


@dataclass(frozen=True)
class Addons:
    """The addons of some folders, what is wrong with their manifests, the imports between them, and files that were not read."""

    modules: tuple[OdooModule, ...]
    findings: tuple[ModuleFinding, ...]
    imports: tuple[Edge, ...]
    not_read: tuple[Unread, ...] = ()

    @property
    def outside(self) -> tuple[str, ...]:
        """Addons that others need and that must be elsewhere: without `base`, these folders are only a part."""
        names = {module.name for module in self.modules}
        if "base" in names:
            return ()
        return tuple(sorted({name for module in self.modules for name in module.dependencies} - names))


def read_addons(folders: Sequence[Path]) -> Addons:
    """Read all addons below some folders; a manifest that is wrong is a finding, and what can be read of it is used.

    Links to folders are followed, and an addon that is reached twice is read once. One that is not installable is left out, as
    Odoo does. Raises UsageError for a folder that is none, or folders that hold no addon.
    """
    found = list(_find_manifests(folders))
    manifests, broken = (
        [one for one in found if isinstance(one, Path)],
        [one for one in found if isinstance(one, Unread)],
    )
    if not manifests:
        raise UsageError(f"{', '.join(map(str, folders))}: no addon is in there (no folder with a __manifest__.py)")
    modules: list[OdooModule] = []
    findings: list[ModuleFinding] = []
    for path in manifests:
        module, wrong = read_manifest(path)
        findings += wrong
        if module is not None:
            modules.append(module)
    active = [module for module in modules if module.installable]
    findings += _needs_what_cannot_be_installed(modules)
    imports = list(_imports(active))
    edges = [one for one in imports if isinstance(one, Edge)]
    unread = [one for one in imports if isinstance(one, Unread)]
    addons = Addons(tuple(active), tuple(findings), tuple(edges), (*broken, *unread))
    return replace(addons, findings=(*findings, *_misspelt(addons)))


def read_manifest(path: Path) -> tuple[OdooModule | None, list[ModuleFinding]]:
    """Read one manifest, and say what is wrong with it, by file and line; nothing of it is executed."""
    name = path.parent.name
    tree = _parse(path)
    if isinstance(tree, str):
        return None, [_invalid(name, tree)]
    values, lines, findings = _values(path, name, tree)
    findings += [
        _invalid(name, f"{shorten_path(path)}:{tree.lineno}: the key {key!r} is missing")
        for key in ("name",)
        if key not in lines
    ]
    findings += [
        _invalid(
            name, f"{shorten_path(path)}:{lines['auto_install']}: auto_install names {one}, which depends does not list"
        )
        for one in sorted(set(_triggers(values)) - set(_dependencies(path, values, lines)))
    ]
    return _module(path, values, lines), findings


def _module(path: Path, values: Mapping[str, Any], lines: Mapping[str, int]) -> OdooModule:
    return OdooModule(
        name=path.parent.name,
        path=path,
        title=values.get("name", ""),
        dependencies=_dependencies(path, values, lines),
        category=values.get("category", ""),
        version=values.get("version", ""),
        installable=bool(values.get("installable", True)),
        auto_install=bool(values.get("auto_install", False) or values.get("auto_install") == []),
        lines=lines,
    )


def _dependencies(path: Path, values: Mapping[str, Any], lines: Mapping[str, int]) -> tuple[str, ...]:
    """Return what an addon depends on: on `base` where it names nothing, as all addons do, but not where it cannot be read."""
    if path.parent.name == "base" or ("depends" in lines and "depends" not in values):
        return tuple(values.get("depends", ()))
    return tuple(dict.fromkeys(values.get("depends") or ("base",)))


def _triggers(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dependencies whose installation installs an addon, () where all of them do."""
    found = values.get("auto_install", ())
    return tuple(map(str, found)) if isinstance(found, list | tuple | set) else ()


def _find_manifests(folders: Sequence[Path]) -> Iterator[Path | Unread]:
    """Yield the manifest of each addon once, through links to folders as well, and each link that leads nowhere."""
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder")
        yield from _manifests_in(folder.absolute(), seen)


def _manifests_in(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path | Unread]:
    try:
        state = folder.stat()
        entries = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        yield unreadable(folder, folder.name, error)
        return
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    if found := next((name for name in _MANIFESTS if name in entries), None):
        yield folder / found  # an addon holds no addons
        return
    for name, entry in sorted(entries.items()):
        if entry.is_dir() and name not in _SKIPPED and not name.startswith("."):
            yield from _manifests_in(folder / name, seen)
        elif entry.is_symlink() and not Path(entry).exists():
            place = shorten_path(folder / name)
            yield Unread(f"{place}: is a link that leads nowhere", place, 0, (name,))


def _parse(path: Path) -> ast.Dict | str:
    """Return the dictionary that a manifest is, or what is wrong, with file and line."""
    place = shorten_path(path)
    try:
        if path.stat().st_size > _BIGGEST:
            return f"{place}: larger than a manifest can be"
        body = ast.parse(path.read_bytes()).body
    except OSError as error:
        return f"{place}: {error.strerror}"
    except SyntaxError as error:
        return f"{place}:{error.lineno or 1}: not Python: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{place}:1: not Python: {str(error) or type(error).__name__}"
    body = [one for one in body if not _is_text(one)]
    if len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Dict):
        return body[0].value
    culprit = next((one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Dict))), None)
    line = culprit.lineno if culprit else 1
    return f"{place}:{line}: a manifest is one dictionary and nothing else; it was not executed"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _values(path: Path, name: str, tree: ast.Dict) -> tuple[dict[str, Any], dict[str, int], list[ModuleFinding]]:
    """Read each key by itself, so that a wrong one does not take the others with it."""
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    findings = []
    for key_node, node in zip(tree.keys, tree.values, strict=True):
        key = key_node.value if isinstance(key_node, ast.Constant) else None
        place = f"{shorten_path(path)}:{node.lineno}"
        if not isinstance(key, str):
            findings.append(_invalid(name, f"{place}: a key that is not text: {_source(key_node or node)}"))
            continue
        lines[key] = node.lineno
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            findings.append(_invalid(name, f"{place}: {key!r} is an expression, which is not run: {_source(node)}"))
            continue
        if wrong := _wrong_type(key, value):
            findings.append(_invalid(name, f"{place}: {key!r} {wrong}"))
            continue
        values[key] = value
        if key == "depends":
            lines |= {element.value: element.lineno for element in _elements(node)}
    return values, lines, findings


def _elements(node: ast.expr) -> list[Any]:
    return [element for element in getattr(node, "elts", ()) if isinstance(element, ast.Constant)]


def _wrong_type(key: str, value: object) -> str:
    allowed = _TYPES.get(key)
    if allowed is None:
        return ""
    if not isinstance(value, allowed):
        return f"must be {' or '.join(kind.__name__ for kind in allowed[:2])}, not {type(value).__name__}"
    if key == "depends" and isinstance(value, list | tuple) and not all(isinstance(one, str) and one for one in value):
        return "must hold names of addons"
    return ""


def _source(node: ast.expr) -> str:
    try:
        text = " ".join(ast.unparse(node).split())
    except RecursionError:
        return "…"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _invalid(name: str, problem: str) -> ModuleFinding:
    return ModuleFinding("invalid manifest", (name,), problem, "correct the manifest")


def _needs_what_cannot_be_installed(modules: Sequence[OdooModule]) -> Iterator[ModuleFinding]:
    off = {module.name for module in modules if not module.installable} - {m.name for m in modules if m.installable}
    for module in modules:
        for name in module.dependencies if module.installable else ():
            if name in off:
                problem = f"{module.name} depends on {name}, which is not installable"
                yield ModuleFinding(
                    "not installable",
                    (module.name, name),
                    problem,
                    "port it, or remove the dependency",
                    (str(place := module.declared_at(name)),),
                    (place,),
                )


def _misspelt(addons: Addons) -> Iterator[ModuleFinding]:
    """Yield dependencies that are not here and look like an addon that is, or like one that more addons depend on."""
    needed = Counter(name for module in addons.modules for name in module.dependencies)
    here = {module.name for module in addons.modules}
    alike = _by_shortened([*here, *needed] if addons.outside else ())
    for name in addons.outside:
        near = {one for text in _shortened(name) for one in alike.get(text, ()) if _is_slip(name, one)}
        near = {one for one in near if one in here or needed[one] > needed[name]}
        for module in addons.modules if near else ():
            if name in module.dependencies:
                problem = f"{module.name} depends on {name}, which is in none of these folders"
                place, best = module.declared_at(name), max(near, key=lambda one: (needed[one], one))
                names, remedy = (module.name, name), f"did you mean {best}?"
                yield ModuleFinding("misspelt dependency", names, problem, remedy, (str(place),), (place,))


def _shortened(name: str) -> set[str]:
    """Return a name, and what is left of it without one of its letters: names that are one slip apart share one of these."""
    return {name, *(name[:at] + name[at + 1 :] for at in range(len(name)))}


def _by_shortened(names: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name in names:
        for text in _shortened(name):
            found.setdefault(text, set()).add(name)
    return found


def _is_slip(name: str, other: str) -> bool:
    """Tell whether two names differ by a letter, or by two that are swapped, in one word of four letters or more.

    `l10n_be` and `l10n_de` are two countries.
    """
    words, others = name.split("_"), other.split("_")
    differ = [pair for pair in zip(words, others, strict=False) if pair[0] != pair[1]]
    if len(words) != len(others) or len(differ) != 1:
        return False
    first, second = differ[0]
    return (min(len(first), len(second)) >= _LONG and sorted(first) != sorted(second)) or _are_swapped(first, second)


def _are_swapped(word: str, other: str) -> bool:
    differ = [at for at, (one, two) in enumerate(zip(word, other, strict=False)) if one != two]
    return len(word) == len(other) and len(differ) == 2 and differ[1] == differ[0] + 1 and sorted(word) == sorted(other)


def _imports(modules: Sequence[OdooModule]) -> Iterator[Edge | Unread]:
    """Imports of `odoo.addons.<name>`; a file is only parsed where these words are in it."""
    known = {module.name for module in modules}
    for module in modules:
        for path in find_python(module.path.parent):
            try:
                text = path.read_bytes()
            except OSError as error:  # a link that leads nowhere, say
                yield unreadable(path, module.name, error)
                continue
            if b"odoo.addons" in text or b"openerp.addons" in text:
                yield from _imports_of(module, path, text, known)


def _imports_of(module: OdooModule, path: Path, text: bytes, known: Collection[str]) -> Iterator[Edge | Unread]:
    tree = parse_python(path, module.name, text)
    if isinstance(tree, Unread):
        yield tree
        return
    place = shorten_path(path)
    for one in imports_in(tree):
        top, addons, name = (*f"{one.base}.{one.name}".split("."), "", "")[:3]
        if top in ("odoo", "openerp") and addons == "addons" and name in known and name != module.name:
            words, types = f"{place}:{one.line}", one.is_for_types
            yield Edge(module.name, name, "import", words, place, one.line, one.column, for_types=types)
