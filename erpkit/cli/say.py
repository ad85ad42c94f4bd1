"""Printing: the only place that writes text from elsewhere to a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import threading
import time
from typing import Any

import click

from erpkit.visible import visible

_AFTER = 1.0  # seconds; what takes no longer shows nothing
_STEPS = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def say(text: object = "", *, err: bool = False, tone: str = "", hang: int | None = None) -> None:
    r"""Print one line; whatever in it would act on a terminal, or begin another line, is shown as `\x1b` or `\n`.

    `tone` is a colour, or `dim`: on a terminal only, and not with NO_COLOR. With `hang`, a terminal gets the line folded between
    words, with so many blanks before what follows; what is to be pasted is not folded.
    """
    line = visible(text)
    if hang is not None and (sys.stderr if err else sys.stdout).isatty():
        line = _folded(line, hang)
    _echo(_toned(line, tone), err=err)


def say_text(text: str, *, err: bool = False) -> None:
    """Print a text of several lines, such as a script, with what would act on a terminal shown."""
    _echo(visible(text, keep="\n\t"), err=err)


def say_script(text: str) -> None:
    """Print what another program may read: exactly as it is in a pipe, and as `say_text` on a terminal."""
    if sys.stdout.isatty():
        say_text(text)
    else:
        _echo(text, color=True)  # color: nothing is stripped


def say_drawn(drawing: Any, *, endless: bool = False) -> None:
    """Print one of rich's drawings, or what draws itself; `endless` makes the lines as long as they need to be."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.measure import Measurement  # noqa: PLC0415

    end_waiting()
    width = None
    if endless:
        most = Console().options.update(width=1_000_000)
        width = max(200, Measurement.get(Console(), most, drawing).maximum)
    Console(width=width).print(drawing, crop=False)


def _folded(line: str, hang: int) -> str:
    """Fold a line between words; a name or a path that is wider than the terminal stays whole."""
    width = max(shutil.get_terminal_size().columns, hang + 20)
    return textwrap.fill(line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False)


def _toned(text: str, tone: str) -> str:
    if not tone or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, dim=True) if tone == "dim" else click.style(text, fg=tone)


def _echo(text: str, *, err: bool = False, color: bool | None = None) -> None:
    end_waiting()
    click.echo(text, err=err, color=color)  # noqa: TID251 - the one place


class _Waiting:
    """A line on standard error that shows that a command goes on, from the first second until something is printed."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._turn, name="erpkit-waiting", daemon=True)
        self._thread.start()

    def _turn(self) -> None:
        started = time.monotonic()
        if self._end.wait(_AFTER):
            return
        step = 0
        while True:
            sys.stderr.write(f"\r{_STEPS[step % len(_STEPS)]} working for {time.monotonic() - started:.0f} s")
            sys.stderr.flush()
            step += 1
            if self._end.wait(0.1):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
                return

    def end(self) -> None:
        self._end.set()
        self._thread.join()


_waiting: list[_Waiting] = []


def start_waiting() -> None:
    """Show on a terminal, from a second on, that the command goes on; anything that is printed ends it."""
    if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        end_waiting()
        _waiting.append(_Waiting())


def end_waiting() -> None:
    """Take the line away, before anything else is printed."""
    while _waiting:
        _waiting.pop().end()
