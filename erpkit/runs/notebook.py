"""Finding and reading notebooks."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError, first_line
from erpkit.near import did_you_mean
from erpkit.plural import count_of
from erpkit.runs.parameters import Parameter, read_parameters

_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Notebook:
    """A notebook that can be run: where it is, its first heading, its parameters, and the name of its kernel."""

    path: Path
    title: str
    parameters: tuple[Parameter, ...]
    kernel: str = "python3"


def notebooks_folder() -> Path:
    """Return the folder of erpkit's notebooks: inside an installed kit, beside the package in a checkout."""
    installed = _PACKAGE / "notebooks"
    return installed if installed.is_dir() else _PACKAGE.parent / "notebooks"


def list_notebooks() -> list[str]:
    """Return the names under which erpkit's own notebooks can be run."""
    folder = notebooks_folder()
    return sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.ipynb")
        if not {".ipynb_checkpoints", "jobs"} & set(path.relative_to(folder).parts)  # nor jupyter-scheduler's outputs
    )


def open_notebook(name: str) -> Notebook:
    """Open a notebook by its path, or by the name of one of erpkit's; raises UsageError for anything else."""
    path = _find(name)
    node = _read(path)
    cells = [cell for cell in node.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise UsageError(f"{path}: {count_of(len(cells), 'cell is', 'cells are')} tagged parameters: keep one")
    kernel = node.metadata.get("kernelspec", {}).get("name") or "python3"
    return Notebook(path, _title(node, path), tuple(read_parameters(cells[0].source)) if cells else (), kernel)


def _find(name: str) -> Path:
    given = Path(name)
    candidates = [
        given,
        given.with_name(given.name + ".ipynb"),
        notebooks_folder() / name,
        notebooks_folder() / f"{name}.ipynb",
    ]
    for path in candidates:
        if path.is_file():
            return path.absolute()
    raise UsageError(f"there is no notebook {name!r}; {did_you_mean(name, list_notebooks())}")


def _read(path: Path) -> Any:
    nbformat = _import_nbformat()
    try:
        node = nbformat.read(path, as_version=4)
        nbformat.validate(node)
    except nbformat.reader.NotJSONError:
        raise UsageError(f"{path} is not a notebook: it is not JSON") from None
    except (nbformat.ValidationError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a notebook: {first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return node


def _import_nbformat() -> Any:
    """Import nbformat without a grammar of web addresses: jsonschema would build it, for more than a second, if it were there.

    A notebook's schema has no address in it to be checked.
    """
    absent = "rfc3987_syntax" not in sys.modules
    if absent:
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # as one that cannot be imported
    try:
        return import_module("nbformat")
    finally:
        if absent:
            del sys.modules["rfc3987_syntax"]


def _title(node: Any, path: Path) -> str:
    for cell in node.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# "):
            return str(cell.source.splitlines()[0].removeprefix("# ").strip())
    return path.stem
