"""Layers of modules that somebody declared: a module may need those of its own layer and of lower ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from erpkit.errors import UsageError

__all__ = ["Layers"]


@dataclass(frozen=True)
class Layers:
    """Patterns of module names, the highest layer first; a module that no pattern matches is in no layer, and free."""

    patterns: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Layers:
        """Read `billing > sales, inventory > catalog*`; raises UsageError for a layer without a name."""
        if not text.strip():
            return cls()
        layers = tuple(tuple(name.strip() for name in layer.split(",")) for layer in text.split(">"))
        if not all(name for layer in layers for name in layer):
            raise UsageError(
                f"layers {text!r}: a name is missing: write them as 'billing > sales, inventory > catalog'"
            )
        return cls(layers)

    def of(self, module: str) -> int | None:
        """Return a module's layer, 0 for the highest, or None."""
        found = (n for n, layer in enumerate(self.patterns) if any(fnmatchcase(module, name) for name in layer))
        return next(found, None)

    def unused(self, modules: Iterable[str]) -> list[str]:
        """Return the patterns that match no module: a name that was mistyped, say."""
        names = list(modules)
        return [
            pattern
            for layer in self.patterns
            for pattern in layer
            if not any(fnmatchcase(name, pattern) for name in names)
        ]
