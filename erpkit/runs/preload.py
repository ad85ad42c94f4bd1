"""What the warm process has loaded besides a kernel: all that a run and a notebook of erpkit import."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from types import ModuleType

_USED = (
    "getpass", "ipywidgets", "jupyter_client.manager", "jupyter_client.provisioning", "matplotlib.dates", "matplotlib.pyplot",
    "nbclient", "nbconvert.exporters.html", "networkx", "numpy", "pandas", "papermill", "psycopg", "psycopg.types.numeric",
    "psycopg_pool", "pydantic", "rich.console", "rich.progress", "rich.table", "sqlglot", "sqlglot.dialects.postgres", "tenacity",
    "yaml", "zmq.asyncio",
)  # fmt: skip
_OTHERS = (  # extras, and what few need
    "erpkit.app", "erpkit.cli.serve", "erpkit.events.brokers", "erpkit.runs.scheduler", "erpkit.sample",
)  # fmt: skip


def rehearse() -> None:
    """Import it all, and write one report, so that its templates are compiled."""
    from erpkit.runs import notebook  # noqa: PLC0415 - here all is imported late

    notebook._import_nbformat()
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel sets it
    for name in _USED:
        import_module(name)
    _import_all(import_module("erpkit"))
    _write_report()


def _import_all(package: ModuleType) -> None:
    for _, name, is_package in iter_modules(package.__path__, f"{package.__name__}."):
        if name.startswith(_OTHERS) or name.endswith("__main__"):
            continue
        with suppress(ModuleNotFoundError):  # of an extra
            module = import_module(name)
            if is_package:
                _import_all(module)


def _write_report() -> None:
    import nbformat  # noqa: PLC0415

    from erpkit.runs.record import Provenance  # noqa: PLC0415
    from erpkit.runs.report import write_report  # noqa: PLC0415
    from erpkit.runs.result import RunResult  # noqa: PLC0415

    printed = nbformat.v4.new_output("stream", text="1")
    cells = [nbformat.v4.new_markdown_cell("# x"), nbformat.v4.new_code_cell("1", outputs=[printed])]
    with TemporaryDirectory() as folder:
        path = Path(folder, "x.ipynb")
        result = RunResult("x", "ok", 0, path, path.with_suffix(".html"))
        write_report(nbformat.v4.new_notebook(cells=cells), "x", result, Provenance("", "", 0, "", "", {}))
