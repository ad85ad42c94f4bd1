"""Python files: found, parsed and never executed, and the imports that they hold."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from erpkit.modules.wiring import Unread, shorten_path

_SKIPPED = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True)
class Import:
    """An import of `base`, or of `name` from it, as `alias`; `is_for_types` where it stands below `if TYPE_CHECKING`."""

    base: str
    name: str
    alias: str
    line: int
    column: int
    is_for_types: bool


def find_python(folder: Path) -> Iterator[Path]:
    """Yield all Python files below a folder, in order, whether its folders have an `__init__.py` or not.

    Links to folders are followed, as Python does, each folder once, and none back to a folder above. A folder that cannot be
    listed is yielded itself, so that whoever reads the files says so.
    """
    failed: list[OSError] = []
    linked = {folder.resolve()}
    for here, below, files in os.walk(folder, onerror=failed.append, followlinks=True):
        kept = sorted(name for name in below if name not in _SKIPPED and not name.startswith("."))
        below[:] = [name for name in kept if _is_entered(Path(here, name), linked)]
        yield from (Path(here, name) for name in sorted(files) if name.endswith(".py"))
    yield from (Path(error.filename) for error in failed)


def _is_entered(folder: Path, linked: set[Path]) -> bool:
    """Tell whether a folder is walked: not where it is a link to one above, or to one of those `linked`, which it becomes."""
    if not folder.is_symlink():
        return True
    real = folder.resolve()
    if real in linked or folder.parent.resolve().is_relative_to(real):
        return False
    linked.add(real)
    return True


def parse_python(path: Path, module: str, text: bytes | None = None) -> ast.Module | Unread:
    """Parse a file, or say by file and line why it cannot be read; `module` is the one that it belongs to."""
    place = shorten_path(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # an odd escape in a string is not this reader's business
            return ast.parse(path.read_bytes() if text is None else text)
    except OSError as error:
        return unreadable(path, module, error)
    except SyntaxError as error:
        line = error.lineno or 1
        return Unread(f"{place}:{line}: not Python: {error.msg}", place, line, (module,))
    except (ValueError, RecursionError, MemoryError) as error:
        return Unread(f"{place}:1: not Python: {str(error) or type(error).__name__}", place, 1, (module,))


def unreadable(path: Path, module: str, error: OSError) -> Unread:
    """Return what the system says of a file that cannot be read."""
    place = shorten_path(path)
    return Unread(f"{place}: {error.strerror}", place, 0, (module,))


def imports_in(tree: ast.Module, package: str = "") -> Iterator[Import]:
    """Yield all imports of a file, however deep; relative ones are resolved from the `package` that holds the file."""
    for node, is_for_types in _statements(tree):
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0) + 1
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", alias.asname or "", line, column, is_for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (base := _base(node, package)):
            yield from (
                Import(base, alias.name, alias.asname or "", line, column, is_for_types) for alias in node.names
            )


def dotted(node: ast.expr) -> str:
    """Return a chain of attributes of a name as it is written, `a.b.c`, and "" for any other expression."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def _base(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    above = package.split(".")[: package.count(".") + 2 - node.level] if package else []
    return ".".join([*above, *([node.module] if node.module else [])]) if above else ""


def _statements(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Yield all statements, however deep, without the expressions in them: these are most of the tree."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, is_for_types = waiting.pop()
        yield node, is_for_types
        inside = is_for_types or (isinstance(node, ast.If) and _is_type_checking(node.test))
        for field in ("body", "orelse", "handlers", "finalbody", "cases"):
            below = getattr(node, field, ())
            if isinstance(below, list):
                waiting += ((one, inside if field == "body" else is_for_types) for one in below)


def _is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in (getattr(test, "id", ""), getattr(test, "attr", ""))
