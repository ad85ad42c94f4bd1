"""The declaration of a running notebook's parameters: its parameters cell, as it was executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erpkit.errors import UsageError
from erpkit.runs import Parameter, read_parameters

__all__ = ["declared_parameters"]


def declared_parameters(namespace: Mapping[str, Any]) -> list[Parameter]:
    """Return the parameters that a kernel's variables were declared as; `namespace` is the notebook's `globals()`.

    The parameters cell is the one in IPython's history that declares most of the annotated variables, its newest version.
    """
    names = {name for name in namespace.get("__annotations__", {}) if not name.startswith("_")}
    cells = [_read(source) for source in reversed(namespace.get("In", []))]
    cell = max(cells, key=lambda parameters: len(names & {parameter.name for parameter in parameters}), default=[])
    if not names & {parameter.name for parameter in cell}:
        return []
    return [parameter for parameter in cell if parameter.name in namespace]


def _read(source: str) -> Sequence[Parameter]:
    """Return what a cell declares: nothing, for a cell that no parameters cell could be."""
    try:
        return read_parameters(source)
    except UsageError:
        return []
