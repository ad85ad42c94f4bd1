"""Where a run writes: into a folder, or to wherever papermill's handlers can write."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import types
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from erpkit.errors import RunError, UsageError, first_line
from erpkit.runs.alive import LOCK, PREFIX, TEMP, claimed

_EMPTY = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
# What papermill.iorw calls the client of each scheme, and papermill's extra that brings it.
_CLIENTS = {
    "s3": ("S3", "s3"),
    "gs": ("GCSFileSystem", "gcs"),
    "abs": ("AzureBlobStore", "azure"),
    "adl": ("ADL", "azure"),
}


class Destination:
    """Where outputs go: `folder` is where they are written first, and for good unless the place is a URL."""

    def __init__(self, place: str | Path) -> None:
        self.url = str(place).rstrip("/") if re.match(r"[a-z][a-z0-9+.-]*://", str(place)) else None
        if self.url:
            _find_handler(self.url)
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=TEMP))
            self._claim = ExitStack()
            self._claim.enter_context(claimed(self.folder / LOCK))
            return
        self.folder = Path(place).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error.strerror) from None

    def reserve(self, name: str, *, anew: bool = False) -> Path:
        """Make an output notebook that is this run's alone: of two with the same name the second gets a number.

        With `anew` the name stays as it is, and what is there is replaced. Raises UsageError where it cannot be written.
        """
        if not self.url:
            return _reserve(self.folder, name, anew)
        path = self.folder / (f"{name}.ipynb" if anew else f"{name}-{uuid4().hex[:6]}.ipynb")
        path.write_text(_EMPTY, encoding="utf-8")
        try:
            self._send(path)
        except RunError as error:
            self.close()
            raise UsageError(str(error)) from None
        return path

    def deliver(self, files: Sequence[Path]) -> tuple[str, ...]:
        """Bring the files to where they are to stay; return their addresses. Raises RunError, and keeps the files then."""
        if not self.url:
            return tuple(str(file) for file in files)
        try:
            return tuple(self._send(file) for file in files)
        except RunError as error:
            self._claim.close()
            (self.folder / LOCK).unlink()  # nothing sweeps it now
            raise RunError(f"{error}; the files are kept in {self.folder}") from None

    def close(self) -> None:
        """Remove what was only kept until it was delivered."""
        if self.url:
            self._claim.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, file: Path) -> str:
        target = f"{self.url}/{file.name}"
        try:
            _find_handler(target).write(file.read_text(encoding="utf-8"), target)
        except Exception as error:  # each handler has its own
            raise RunError(f"the output {target} cannot be written: {first_line(error)}") from None
        return target


def read_tenants(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tenants that a run's parameters name."""
    named = values.get("tenants") or values.get("tenant") or []
    return (named,) if isinstance(named, str) else tuple(str(slug) for slug in named)


def output_name(notebook: str, tenants: Sequence[str], at: datetime) -> str:
    """Return the name of an output: notebook, tenant and time (UTC), as in inspect_tenants-acme-20261125T154114Z."""
    several = f"{len(tenants)}-tenants" if len(tenants) > 3 else "+".join(tenants)
    parts = [notebook, re.sub(r"[^\w+-]+", "-", several)[:80], f"{at:%Y%m%dT%H%M%SZ}"]
    return "-".join(part for part in parts if part)


def _reserve(folder: Path, name: str, anew: bool) -> Path:
    for number in range(1, 1000):
        path = folder / f"{name}{f'-{number}' if number > 1 else ''}.ipynb"
        try:
            if anew or not path.with_suffix(".html").exists():
                _begin(path, anew)
                return path
        except FileExistsError:
            continue
        except OSError as error:
            raise _unwritable(folder, error.strerror) from None
    raise UsageError(f"{folder} holds a thousand outputs named {name} already: use another folder")


def _begin(path: Path, anew: bool) -> None:
    """Make the file, or find the one that is there; a file that there is no room in does not stay."""
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | (0 if anew else os.O_EXCL), 0o644)
    try:
        os.write(handle, b"" if anew else _EMPTY.encode())
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(handle)


def _find_handler(place: str) -> Any:
    """Return papermill's handler for a URL; raises UsageError where there is none, or a part of papermill is missing."""
    from papermill import iorw  # noqa: PLC0415 - slow to import

    scheme = place.partition("://")[0]
    handler = iorw.papermill_io.get_handler(place)
    kind = handler if isinstance(handler, type) else type(handler)
    if kind in (iorw.LocalHandler, iorw.HttpHandler):
        return _find_filesystem(scheme)
    client, extra = _CLIENTS.get(scheme, ("", ""))
    if isinstance(getattr(iorw, client, None), types.FunctionType):  # it raises when it is called
        raise UsageError(f"{scheme}:// needs a part of papermill that is missing: pip install 'papermill[{extra}]'")
    return handler


class _Fsspec:
    """Writes where papermill cannot, and fsspec can: sftp, hdfs, abfs, a shared folder."""

    def write(self, text: str, place: str) -> None:
        """Write a text to a URL."""
        from fsspec.core import url_to_fs  # noqa: PLC0415 - an extra brings it

        filesystem, path = url_to_fs(place)
        filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        with filesystem.open(path, "w", encoding="utf-8") as file:
            file.write(text)


def _find_filesystem(scheme: str) -> _Fsspec:
    try:
        import fsspec  # noqa: PLC0415

        if scheme in ("http", "https", "ftp"):
            raise ValueError(scheme)
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        raise UsageError(
            f"papermill cannot write to {scheme}://, nor can fsspec here: give a folder, s3://, gs:// or abs://"
        ) from None
    return _Fsspec()


def _unwritable(folder: Path, reason: str | None) -> UsageError:
    return UsageError(f"the output folder {folder} cannot be written: {reason}")
