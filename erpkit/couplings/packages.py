"""Which Python package a module of the ERP is made of."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType

from erpkit.modules import ModuleLike

__all__ = ["find_packages"]


def find_packages(modules: Sequence[ModuleLike]) -> dict[str, str]:
    """Return the package of each module by its name: the attribute `package`, else where its record was loaded from.

    Left out are those that have none (of another language, say), and those of which several are in one package: there
    nobody can say whose an import is.
    """
    homes = _homes(modules)
    found = {
        m.name: package for m in modules if (package := getattr(m, "package", None) or _home(homes.get(id(m), [])))
    }
    shared = {package for package, count in Counter(found.values()).items() if count > 1}
    return {name: package for name, package in found.items() if package not in shared}


def _homes(modules: Sequence[ModuleLike]) -> dict[int, list[ModuleType]]:
    """Look into all loaded Python modules for those that hold a record."""
    wanted: dict[int, list[ModuleType]] = {id(module): [] for module in modules}
    for loaded in list(sys.modules.values()):
        for value in list(getattr(loaded, "__dict__", {}).values()):
            if id(value) in wanted and loaded not in wanted[id(value)]:
                wanted[id(value)].append(loaded)
    return wanted


def _home(holders: Sequence[ModuleType]) -> str | None:
    """Choose the package furthest down: what is above it only passes the record on. A script has none."""
    packages = sorted(_packages(holders), key=lambda name: (-name.count("."), name))
    return packages[0] if packages else None


def _packages(holders: Sequence[ModuleType]) -> Iterator[str]:
    for holder in holders:
        name = holder.__name__ if hasattr(holder, "__path__") else holder.__name__.rpartition(".")[0]
        if name:
            yield name
