"""Finding and reading notebooks."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from erpkit.errors import UsageError, first_line
from erpkit.near import did_you_mean
from erpkit.runs.parameters import Parameter, read_cells

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
    node = read_notebook(path)
    cells = [cell for cell in node.cells if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])]
    kernel = node.metadata.get("kernelspec", {}).get("name") or "python3"
    return Notebook(path, _title(node, path), read_cells([cell.source for cell in cells]), kernel)


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


def read_notebook(path: Path) -> Any:
    """Read a notebook of any version as one of the newest; raises UsageError for a file that is none.

    One with a byte order mark, of nbformat 4.4 or without ids of its cells is a notebook as well.
    """
    nbformat = _import_nbformat()
    try:
        node = nbformat.reads(_with_ids(path.read_bytes().decode("utf-8-sig")), as_version=4)
        node = nbformat.v4.upgrade(node)
        nbformat.validate(node)
    except (nbformat.reader.NotJSONError, json.JSONDecodeError, UnicodeDecodeError):
        raise UsageError(f"{path} is not a notebook: it is not JSON") from None
    except (nbformat.ValidationError, AttributeError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a notebook: {first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return node


def _with_ids(text: str) -> str:
    """Return a notebook's text with an id in each cell where its version asks for one; nbformat would warn."""
    raw = json.loads(text)
    if (raw["nbformat"], raw.get("nbformat_minor", 0)) < (4, 5):
        return text
    seen: set[str] = set()
    for cell in raw["cells"]:
        if cell.get("id") in (None, *seen):
            cell["id"] = uuid4().hex[:8]
        seen.add(cell["id"])
    return json.dumps(raw)


def write_notebook(node: Any, path: Path) -> None:
    """Write a notebook in one step, so that neither a reader nor a full disk ever leaves half of it."""
    write_whole(path, _import_nbformat().writes(node) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and then move it there; what was there stays until then. Raises OSError."""
    draft = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        draft.write_bytes(text.encode("utf-8", "backslashreplace"))  # in JSON that is an escape for half of a character
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


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
