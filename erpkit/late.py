"""Names that a package gives and imports only when one is asked for: a command that needs two of them pays for two.

They stand once, in the package's `if TYPE_CHECKING:` block, where editors and mypy read them too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import get_data
from typing import Any

__all__ = ["import_late"]

_IMPORT = re.compile(r"^    from (erpkit[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def import_late(package: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are imported when they are first used."""

    def find(name: str) -> Any:
        home = None if name.startswith("__") else _homes(package).get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
        setattr(sys.modules[package], name, value)
        return value

    return find


@cache
def _homes(package: str) -> dict[str, str]:
    """Return the module that each name of a package comes from."""
    source = (get_data(package, "__init__.py") or b"").decode()
    return {name: home for home, names in _IMPORT.findall(source) for name in re.findall(r"\w+", names)}
