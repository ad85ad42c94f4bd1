"""Sets of parameters from a file: one run for each row of a CSV file, each mapping of a YAML list, or each point of a grid."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError, first_line
from erpkit.near import did_you_mean
from erpkit.runs.notebook import Notebook
from erpkit.runs.parameters import validate_parameters
from erpkit.visible import visible

_LONGEST = 80  # characters of the name of a run


def read_sets(path: Path, known: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the sets of parameters in a file; `known` are the names that its first line may have, where it is a CSV file.

    In a CSV file the first line names the parameters, and an empty cell leaves one as it is. A YAML file holds a list of
    mappings, or one mapping from names to lists of values: a grid, which means all combinations. Raises UsageError.
    """
    readers = {".csv": lambda file: _read_csv(file, known), ".yaml": _read_yaml, ".yml": _read_yaml}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} is neither a .csv nor a .yaml file")
    try:
        sets = list(readers[path.suffix.lower()](path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from None
    if not sets:
        raise UsageError(f"{path} holds no set of parameters: there is nothing to run")
    return sets


def name_sets(
    notebook: Notebook, given: Mapping[str, Any], sets: Sequence[Mapping[str, Any]], source: Path
) -> dict[str, dict[str, Any]]:
    """Return the parameters of each run by its name, checked; `given` holds for all of them.

    Raises UsageError, which names the set, for a parameter that the notebook refuses, one that is given twice, and a set that
    is there twice.
    """
    named: dict[str, dict[str, Any]] = {}
    known: dict[str, int] = {}
    for number, one in enumerate(sets, 1):
        for name in sorted(given.keys() & one.keys()):
            raise UsageError(f"{source}: set {number}: parameter {name} is given on the command line, too")
        try:
            values = validate_parameters(notebook.parameters, {**given, **one})
        except UsageError as error:
            raise UsageError(f"{source}: set {number}: {error}") from None
        if (same := known.setdefault(repr(sorted(values.items())), number)) != number:
            raise UsageError(f"{source}: the sets {same} and {number} are the same")
        named[_name(one, number, named)] = values
    return named


def _name(one: Mapping[str, Any], number: int, taken: Mapping[str, Any]) -> str:
    text = visible(" ".join(f"{name}={value}" for name, value in one.items()))
    name = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 8]}…"
    return f"{name} #{number}" if name in taken or not name else name


def _read_csv(path: Path, known: Collection[str]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        for name in _repeated(rows.fieldnames or ()):
            raise UsageError(f"{path}: the first line names {name!r} twice")
        for name in rows.fieldnames or ():
            if name and known and name not in known:  # a row in which it has no value would not tell
                raise UsageError(f"{path}: there is no parameter {name!r}; {did_you_mean(name, known)}")
        for number, row in enumerate(rows, 1):
            if None in row:
                raise UsageError(f"{path}: set {number} has more values than the first line has names")
            yield {name: value for name, value in row.items() if value}


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _once(loader: Any, path: Path) -> Any:
    """Return a YAML loader that refuses a name that a mapping has twice: the last one would hold without a word."""

    class Loader(loader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if key.tag.endswith(":str") and isinstance(key.value, str)]
            for name in _repeated(keys):
                line = node.start_mark.line + 1
                raise UsageError(f"{path}: the mapping that begins on line {line} names {name!r} twice")
            return super().construct_mapping(node, deep)

    return Loader


def _read_yaml(path: Path) -> Iterator[dict[str, Any]]:
    import yaml  # noqa: PLC0415 - papermill brings it

    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), _once(yaml.SafeLoader, path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(found, dict) and all(isinstance(name, str) for name in found):
        axes = [
            [(name, one) for one in (value if isinstance(value, list) else [value])] for name, value in found.items()
        ]
        yield from (dict(point) for point in product(*axes))
    elif isinstance(found, list) and all(isinstance(one, dict) for one in found):
        yield from ({str(name): value for name, value in one.items()} for one in found)
    else:
        raise UsageError(f"{path} is neither a list of mappings nor a mapping from names to lists")
