"""The rules that a check of modules goes by. Pure; `rules_file` reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from erpkit.errors import UsageError
from erpkit.modules.wiring import Edge, Relation

BASELINE = "modules-baseline.json"
Grade = Literal["error", "warning", "info", "off"]


@dataclass(frozen=True)
class Layers:
    """Patterns of module names, the highest layer first; a module that no pattern matches is in no layer."""

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


@dataclass(frozen=True)
class Rule:
    """Couplings between modules whose names match two patterns: of any kind and relation, unless it names some."""

    source: str
    target: str
    reason: str = ""
    kinds: tuple[str, ...] = ()
    relation: Relation | None = None
    until: date | None = None

    def covers(self, edge: Edge) -> bool:
        """Tell whether an edge is one of those."""
        return (
            fnmatchcase(edge.source, self.source)
            and fnmatchcase(edge.target, self.target)
            and (not self.kinds or edge.kind in self.kinds)
            and self.relation in (None, edge.relation)
        )

    def holds(self, today: date) -> bool:
        """Tell whether it has not ended."""
        return self.until is None or today <= self.until

    def __str__(self) -> str:
        kinds = f" ({', '.join(self.kinds)})" if self.kinds else ""
        return f"{self.source} -> {self.target}{kinds}"


@dataclass(frozen=True)
class Rules:
    """What a check of modules goes by.

    `forbidden` couplings are findings even where they are declared; `allowed` ones are none, until their date. `severities` are by
    kind of finding, and `off` leaves a kind out. Files that match a pattern of `excluded`, as seen from the working folder, are
    not read, and imports below `if TYPE_CHECKING` do not count without `for_types`. Where it is `strict`, what was not read is an
    error. `baseline` is the file of the findings that are known, and `path` the one that the rules were read from.
    """

    layers: Layers = Layers()
    forbidden: tuple[Rule, ...] = ()
    allowed: tuple[Rule, ...] = ()
    severities: Mapping[str, Grade] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()
    for_types: bool = True
    strict: bool = False
    baseline: Path | None = None
    path: str = ""

    def reads(self, path: str) -> bool:
        """Tell whether a file counts."""
        return not path or not any(fnmatchcase(path, pattern) for pattern in self.excluded)

    def counts(self, edge: Edge) -> bool:
        """Tell whether a coupling counts: not one in a file that is excluded, or one for types where these do not."""
        return edge.kind == "declared" or (self.reads(edge.path) and (self.for_types or not edge.for_types))

    def allows(self, edge: Edge, today: date) -> bool:
        """Tell whether a coupling is allowed on a day."""
        return any(rule.holds(today) and rule.covers(edge) for rule in self.allowed)
