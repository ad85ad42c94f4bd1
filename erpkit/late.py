"""Names that a package gives and imports only when one is asked for: a command that needs two of them pays for two.

They stand once, in the package's `if TYPE_CHECKING:` block, where editors and mypy read them too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from pkgutil import get_data
from typing import Any

__all__ = ["import_late"]

_IMPORT = re.compile(r"^    from (erpkit[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def import_late(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported when they are first used."""

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for home, names in _read(package):
            if name in names:
                value = getattr(import_module(home), name)
                setattr(sys.modules[package], name, value)
                return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find


def _read(package: str) -> list[tuple[str, list[str]]]:
    source = (get_data(package, "__init__.py") or b"").decode()
    return [(home, re.findall(r"\w+", names)) for home, names in _IMPORT.findall(source)]
