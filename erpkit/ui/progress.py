"""A bar for work that takes long, drawn only where somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(total: int, what: str, *, after: float = 1.0) -> Iterator[Callable[[int], object]]:
    """Give a function to be called with the number of things done, and draw how far that is of `total`.

    `what` names the things: tenants, migrations, events. The bar appears `after` seconds, in a terminal and in a notebook
    that a person runs, and is gone at the end. A headless run, a pipe or a log gets none of it. Without tqdm, which
    papermill brings, there is no bar.
    """
    if not _is_watched():
        yield lambda _: None
        return
    try:
        tqdm = import_module("tqdm.auto").tqdm  # by name, as it is slow to import and optional
    except ImportError:
        yield lambda _: None
        return
    with tqdm(total=total, desc=what, unit="", delay=after, leave=False, dynamic_ncols=True) as bar:
        yield bar.update


def _is_watched() -> bool:
    """Tell whether a person sees what is drawn.

    A front end that a person sits at lets the kernel ask for input; papermill, nbclient and nbval do not.
    """
    kernel = getattr(_shell(), "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return sys.stderr is not None and sys.stderr.isatty()


def _shell() -> object:
    """Return the running IPython, without importing it into a process that has none."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
