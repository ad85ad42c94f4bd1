"""Writing a module's typed queries beside its folder of SQL, or telling that they are stale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erpkit.errors import UsageError
from erpkit.modules import ModuleLike, is_foreign
from erpkit.queries.render import render
from erpkit.queries.sqlc import queries_folder, run_sqlc

__all__ = ["GeneratedFile", "generate", "generated_path"]


@dataclass(frozen=True)
class GeneratedFile:
    """The generated code of one module; `stale` says that the file was, or is, not what the SQL says."""

    module: str
    path: Path
    queries: int
    stale: bool


def generated_path(module: ModuleLike) -> Path | None:
    """Return where a module's typed queries are: `sql.py`, beside its folder of queries."""
    folder = queries_folder(module)
    return None if folder is None else folder.parent / "sql.py"


def generate(modules: Sequence[ModuleLike], *, check: bool = False) -> list[GeneratedFile]:
    """Generate the typed queries of all `modules`, given in load order; with `check`, compare and write nothing.

    Nothing is written while any query is broken. Raises QueryError, naming the module, the file and the line, and UsageError for
    modules that are written in another language.
    """
    if foreign := [module.name for module in modules if is_foreign(module)]:
        raise UsageError(
            f"{foreign[0]} is described by a modules.toml and written in another language: no Python is generated for it; "
            "`erpkit queries check` reads its SQL as it is"
        )
    made: list[tuple[GeneratedFile, str]] = []
    for module in modules:
        path = generated_path(module)
        if path is None:
            continue
        request = run_sqlc(module, modules)
        source = render(module.name, request)
        stale = not path.exists() or path.read_text(encoding="utf-8") != source
        made.append((GeneratedFile(module.name, path, len(request.queries), stale), source))
    for file, source in made:
        if file.stale and not check:
            file.path.write_text(source, encoding="utf-8")
    return [file for file, _ in made]
