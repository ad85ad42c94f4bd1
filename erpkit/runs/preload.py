"""What the warm process has loaded besides a kernel: all that a run and a notebook of erpkit import."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryDirectory

_USED = (
    "getpass", "ipywidgets", "jupyter_client.manager", "jupyter_client.provisioning", "matplotlib.dates", "matplotlib.pyplot",
    "nbclient", "nbconvert.exporters.html", "networkx", "numpy", "pandas", "papermill", "psycopg", "psycopg.types.numeric",
    "psycopg_pool", "pydantic", "rich.console", "rich.progress", "rich.table", "sqlglot", "sqlglot.dialects.postgres", "tenacity",
    "yaml", "zmq.asyncio",
)  # fmt: skip
_OTHERS = ("erpkit.sample", "erpkit.runs.scheduler", "erpkit.events.brokers", "erpkit.app")  # extras, and what few need


def rehearse() -> None:
    """Import it all, and write one report, so that its templates are compiled."""
    from erpkit.runs import notebook  # noqa: PLC0415 - here all is imported late

    notebook._import_nbformat()
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel sets it
    for name in _USED:
        import_module(name)
    package = import_module("erpkit")
    for module in walk_packages(package.__path__, "erpkit.", onerror=lambda _: None):
        if not module.name.startswith(_OTHERS) and not module.name.endswith("__main__"):
            with suppress(ModuleNotFoundError):  # of an extra
                import_module(module.name)
    _write_report()


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
