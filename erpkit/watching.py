"""Tell whether a person watches a notebook or a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESTARTED = 30.0  # seconds; a new kernel is started when its connection file is written, or once a warm process is up


def is_watched() -> bool:
    """Tell whether a person sits at this notebook or terminal.

    A front end with a person lets the kernel ask for input; papermill, nbclient and nbval do not.
    """
    if _kernel() is not None:
        return is_a_notebook_watched()
    return sys.stderr is not None and sys.stderr.isatty()


def is_a_notebook_watched() -> bool:
    """Tell whether this is a kernel whose front end has a person at it, so that widgets can be shown."""
    return bool(getattr(_kernel(), "_allow_stdin", False)) or is_served()


def is_served() -> bool:
    """Tell whether this kernel makes a page that Voilà serves: it has widgets, and no cells to be run again."""
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/") and _kernel() is not None


def is_restarted() -> bool:
    """Tell whether this kernel was restarted, and has forgotten what was before: its connection file is older than its process."""
    application = getattr(_kernel(), "parent", None)
    try:
        written = Path(application.abs_connection_file).stat().st_mtime  # type: ignore[union-attr]
    except (AttributeError, OSError):
        return False
    import psutil  # noqa: PLC0415 - ipykernel brings it

    return bool(psutil.Process().create_time() - written > _RESTARTED)


@contextmanager
def unseen_widgets() -> Iterator[None]:
    """Hide the widgets made in the block from the front end unless a person watches, as a run would keep them."""
    import comm  # noqa: PLC0415 - only a kernel needs it, and ipywidgets brings it

    usual = comm.create_comm
    if not is_a_notebook_watched():
        comm.create_comm = comm.DummyComm
    try:
        yield
    finally:
        comm.create_comm = usual


def _kernel() -> object:
    return getattr(_shell(), "kernel", None)


def _shell() -> object:
    """Return the running IPython, without importing IPython into a process that does not use it."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
