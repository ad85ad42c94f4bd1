"""What JupyterLab does when a button asks for it, through ipylab of the extra `interactive`."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from erpkit.watching import is_a_notebook_watched

if TYPE_CHECKING:
    from ipywidgets import HTML, Button

__all__ = ["run_below_button"]

_BY_HAND = (
    "Then run the cells below: the menu Run, Run Selected Cell and All Below. With the extra erpkit[interactive] "
    "there is a button for it, and tables sort and filter."
)


def run_below_button(text: str = "Run the cells below") -> Button | HTML:
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


@cache
def _app() -> Any:
    """Return the front end as it appears to the kernel, once for all buttons; None without ipylab."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # ipylab 1.1 declares a trait in traitlets' old way
            return import_module("ipylab").JupyterFrontEnd()
    except ImportError:
        return None
