"""What erpkit run shares with papermill: parameters from files and texts in YAML; and the line that shows a run's progress."""

from __future__ import annotations

import base64
import binascii
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from erpkit.errors import UsageError, first_line
from erpkit.visible import visible


def yaml_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command papermill's -f, -y and -b; it gets what they hold as `base`, a dict."""

    @click.option("-f", "--parameters_file", "files", multiple=True, metavar="FILE", help="Parameters in a YAML file.")
    @click.option("-y", "--parameters_yaml", "texts", multiple=True, metavar="YAML", help="Parameters in YAML.")
    @click.option("-b", "--parameters_base64", "coded", multiple=True, metavar="TEXT", help="YAML in base64.")
    @wraps(command)
    def with_base(
        *arguments: Any, files: tuple[str, ...], texts: tuple[str, ...], coded: tuple[str, ...], **options: Any
    ) -> Any:
        return command(*arguments, base=read_base(coded, files, texts), **options)

    return with_base


def read_base(coded: Sequence[str], files: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Return the parameters in texts of YAML in base64, in files and in plain texts; of each name the last one, as papermill does.

    Raises UsageError, naming the option, for what cannot be read or holds no names.
    """
    found: dict[str, Any] = {}
    for text in coded:
        found |= _read_yaml("-b", _decode(text))
    for file in files:
        found |= _read_yaml(f"-f {file}", _read_file(file))
    for text in texts:
        found |= _read_yaml("-y", text)
    return found


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise UsageError("-b is not base64 of a text") from None


def _read_file(file: str) -> str:
    try:
        if "://" in file:
            from papermill.iorw import papermill_io  # noqa: PLC0415 - slow to import

            return str(papermill_io.read(file, [".yaml", ".yml", ".json"]))
        return Path(file).read_text(encoding="utf-8-sig")
    except Exception as error:  # each kind of place has its own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UsageError(f"-f {file} cannot be read: {reason}") from None


def _read_yaml(option: str, text: str) -> dict[str, Any]:
    import yaml  # noqa: PLC0415 - slow to import

    class Loader(yaml.SafeLoader):
        """Leaves dates as they are written, as papermill does: the parameter's type says what they are."""

    Loader.yaml_implicit_resolvers = {
        sign: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for sign, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        found = yaml.load(text, Loader) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{option} is not YAML: {first_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{option} holds no parameters: write NAME: VALUE")
    return found


class ProgressLine:
    """Shows on a terminal which cell a run is in; elsewhere nothing."""

    def __init__(self, notebook: str) -> None:
        self._notebook = notebook
        self._began = time.monotonic()
        self._is_shown = sys.stderr.isatty()

    def __call__(self, index: int, cells: Sequence[Any]) -> None:
        """Show that a cell begins."""
        if self._is_shown and cells[index].cell_type == "code":
            first = next((line for line in cells[index].source.splitlines() if line.strip()), "")
            seconds = time.monotonic() - self._began
            line = f"{self._notebook}: cell {index + 1} of {len(cells):,}, {seconds:.0f} s: {visible(first)}"
            sys.stderr.write(f"\r\x1b[K{line[: _columns() - 1]}")
            sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _columns() -> int:
    import shutil  # noqa: PLC0415

    return shutil.get_terminal_size().columns
