"""Importing modules whose generated code is missing, stale or broken: something empty stands in for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

__all__ = ["without_generated_code"]


@contextmanager
def without_generated_code() -> Iterator[None]:
    """Let every `sql.py` beside a folder of queries be a placeholder for whoever imports it inside the block.

    A module's handlers import what is generated from its record, so that one could not be had without the other. Use it
    in a process that reads modules and runs none of them: what was imported keeps its placeholders.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Anything(type):
    """A class for any generated name: may be called, subclassed, part of an annotation, and has any attribute."""

    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002 - importlib's signature
    ) -> ModuleSpec | None:
        is_generated = fullname.endswith(".sql") and any(_has_queries(Path(folder)) for folder in path or ())
        return ModuleSpec(fullname, self) if is_generated else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _anything(name: str) -> object:
    return _Anything(name, (), {})


def _has_queries(folder: Path) -> bool:
    return any("-- name:" in path.read_text(encoding="utf-8") for path in folder.glob("*/*.sql"))
