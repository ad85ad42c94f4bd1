"""JupyterLab as the kernel sees it: run the cells below, and keep in sight what a person is to look at."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpkit.watching import is_a_notebook_watched, is_served

if TYPE_CHECKING:
    from ipywidgets import HTML, Button

_BY_HAND = (
    "Then run the cells below: the menu Run, Run Selected Cell and All Below. With the extra erpkit[interactive] "
    "there is a button for it, and tables sort and filter."
)


def run_below_button(text: str = "Run") -> Button | HTML:
    """Return a button that runs all the cells below its own; where ipylab is missing, a line that says how to."""
    import ipywidgets  # noqa: PLC0415 - slow to import

    app = _app() if is_a_notebook_watched() else None
    if app is None:
        return ipywidgets.HTML(f"<em>{_BY_HAND}</em>")
    button = ipywidgets.Button(
        description=text, icon="forward", button_style="primary", layout={"width": "max-content"}
    )
    button.on_click(lambda _: _run_below(app))
    return button


def _run_below(app: Any) -> None:
    """Run the button's own cell as well, which shows the same again: to go down from it, JupyterLab would pass over folded cells."""
    app.commands.execute("notebook:run-all-below")


def look_here() -> None:
    """Keep this cell in sight: when JupyterLab runs all cells it shows the last one, whose output may not be there yet.

    From then on a cell that fails is brought into sight, too, as those below it stay empty. Elsewhere than in JupyterLab, or without
    ipylab, nothing happens.
    """
    if not is_a_notebook_watched() or is_served() or _app() is None:
        return
    shell: Any = import_module("IPython").get_ipython()
    _show_cell(shell.kernel.get_parent("shell").get("metadata", {}).get("cellId", ""))
    with suppress(ValueError):
        shell.events.unregister("post_run_cell", _show_failed)
    shell.events.register("post_run_cell", _show_failed)


def _show_failed(result: Any) -> None:
    if result.error_before_exec or result.error_in_exec:
        _show_cell(getattr(result.info, "cell_id", "") or "")


def _show_cell(cell: str) -> None:
    if cell and (path := _path()):
        _app().commands.execute("rendermime:handle-local-link", {"path": path, "id": f"#cell-id={cell}"})


@cache
def _app() -> Any:
    """Return the front end as it appears to the kernel, once for all buttons; None without ipylab."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ipylab 1.1 declares a trait in traitlets' old way
            return import_module("ipylab").JupyterFrontEnd()
    except ImportError:
        return None


def _path() -> str:
    """Return the notebook's path as JupyterLab has it, below the server's root; empty where the server does not tell."""
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - slow to import

    server = Path(jupyter_runtime_dir()) / f"jpserver-{os.environ.get('JPY_PARENT_PID', '')}.json"
    try:
        root = Path(json.loads(server.read_text())["root_dir"])
        return Path(os.environ.get("JPY_SESSION_NAME", "")).relative_to(root).as_posix()
    except (OSError, ValueError, KeyError):
        return ""
