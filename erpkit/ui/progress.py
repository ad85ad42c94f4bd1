"""A progress bar for long work, drawn only where a person watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from erpkit.watching import is_watched


@contextmanager
def progress_bar(total: int, what: str, *, after: float = 1.0) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with the number of things done, and draw a bar of them out of `total`.

    `what` names the things: tenants, migrations, events. The bar appears `after` seconds, in a terminal and in a notebook
    that a person runs, and is gone at the end. A headless run, a pipe or a log gets none of it. Without tqdm, which
    papermill brings, there is no bar.
    """
    if not is_watched():
        yield lambda _: None
        return
    try:
        tqdm = import_module("tqdm.auto").tqdm  # by name, as it is slow to import and optional
    except ImportError:
        yield lambda _: None
        return
    with tqdm(total=total, desc=what, unit="", delay=after, leave=False, dynamic_ncols=True) as bar:
        yield bar.update
