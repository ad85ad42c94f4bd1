"""Odoo's addons as modules: `__manifest__.py` is parsed, and never executed.

The keys and their defaults are those of Odoo's own `odoo/modules/module.py`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError
from erpkit.modules.module import CommandHandler, EventHandler
from erpkit.modules.python import find_python, imports_in, parse_python, unreadable
from erpkit.modules.wiring import Edge, ModuleFinding, Place, Unread, shorten_path

_MANIFESTS = ("__manifest__.py", "__openerp__.py")
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
        return Place(shorten_path(self.path), self.lines.get(dependency, 1))


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

    An addon that is not installable is left out, as Odoo does. Raises UsageError for a folder that is none, or holds no addon.
    """
    manifests = [path for folder in folders for path in _find_manifests(folder)]
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
    found = list(_imports(active))
    edges, unread = [one for one in found if isinstance(one, Edge)], [one for one in found if isinstance(one, Unread)]
    return Addons(tuple(active), tuple(findings), tuple(edges), tuple(unread))


def read_manifest(path: Path) -> tuple[OdooModule | None, list[ModuleFinding]]:
    """Read one manifest, and say what is wrong with it, by file and line; nothing of it is executed."""
    name = path.parent.name
    tree = _parse(path)
    if isinstance(tree, str):
        return None, [_invalid(name, tree)]
    values, lines, findings = _values(path, name, tree)
    findings += [
        _invalid(name, f"{shorten_path(path)}:{tree.lineno}: the key {key!r} is missing")
        for key in ("name", "depends")
        if key not in lines and not (key == "depends" and name == "base")
    ]
    return _module(path, values, lines), findings


def _module(path: Path, values: Mapping[str, Any], lines: Mapping[str, int]) -> OdooModule:
    return OdooModule(
        name=path.parent.name,
        path=path,
        title=values.get("name", ""),
        dependencies=tuple(dict.fromkeys(values.get("depends", ()))),
        category=values.get("category", ""),
        version=values.get("version", ""),
        installable=bool(values.get("installable", True)),
        auto_install=values.get("auto_install", False) is not False,
        lines=lines,
    )


def _find_manifests(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    for here, below, files in os.walk(folder):
        found = next((name for name in _MANIFESTS if name in files), None)
        if found:
            yield Path(here, found)
            below.clear()  # an addon holds no addons
        below[:] = sorted(name for name in below if name not in _SKIPPED and not name.startswith("."))


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
