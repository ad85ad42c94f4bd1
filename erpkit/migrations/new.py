"""A new migration file: named by goose's rules, with the next version in the style of its folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from erpkit.errors import UsageError
from erpkit.migrations.files import find_versions
from erpkit.modules import ModuleLike

__all__ = ["Style", "new_migration", "next_version", "write_template"]

Style = Literal["sequential", "timestamp"]

_TIMESTAMP = "%Y%m%d%H%M%S"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([ _-][A-Za-z0-9]+)*")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_INT64_MAX = 2**63 - 1
# A comment may not show goose's annotations: it would be one.
_TEMPLATE = """\
-- +goose Up
-- The statements that bring a tenant up, each with its semicolon at the end of a line. Name tables without a schema.

-- +goose Down
-- The statements that take it back.
"""


def new_migration(module: ModuleLike, name: str, *, style: Style | None = None, now: datetime | None = None) -> Path:
    """Write an empty migration into a module's folder and return its path; no file is ever overwritten.

    `name` is a few words ("add due dates"); `style` is that of the folder's newest version unless given, and a new folder is
    sequential. Raises UsageError for a bad name, a module without a folder or one that is installed, and a version that
    would be out of order; MigrationError where the folder's files clash already.
    """
    words = _snake_case(name)
    folder = _writable_folder(module)
    versions = find_versions(folder)
    version = next_version(versions, style=style, now=now or datetime.now(UTC))
    path = folder / f"{version:0{_width(versions)}}_{words}.sql"
    write_template(path)
    return path


def write_template(path: Path) -> None:
    """Write a migration without statements, where there is no file yet; raises UsageError otherwise."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_TEMPLATE)
    except FileExistsError:
        raise UsageError(f"{path} is there already, perhaps since a moment ago: try again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def next_version(versions: Iterable[int], *, style: Style | None, now: datetime) -> int:
    """Return the version that follows `versions`; `now` is in UTC. Pure.

    A version below the newest one would be out of order for every tenant that has that, and is a UsageError.
    """
    newest = max(versions, default=0)
    newest_time = _as_time(newest)
    if style == "timestamp" or (style is None and newest_time is not None):
        if newest_time is not None:
            now = max(now, newest_time + timedelta(seconds=1))  # two in one second
        version = int(now.strftime(_TIMESTAMP))
    elif newest_time is not None:
        raise UsageError(
            f"the newest version, {newest}, is a timestamp: a sequential one would be out of order; use --timestamp"
        )
    else:
        version = newest + 1
    if not newest < version <= _INT64_MAX:
        raise UsageError(f"version {version} does not follow {newest}, the newest one")
    return version


def _width(versions: Mapping[int, Path]) -> int:
    """Return how many digits the newest version is written with, so that names sort as versions do; goose writes five."""
    newest = versions.get(max(versions, default=0))
    return 5 if newest is None else len(newest.name.split("_")[0])


def _as_time(version: int) -> datetime | None:
    if len(str(version)) != 14:
        return None
    try:
        return datetime.strptime(str(version), _TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _snake_case(name: str) -> str:
    words = _WORD_START.sub("_", name)
    if not _NAME.fullmatch(name) or len(words) > 100:
        raise UsageError(
            f"{name!r} is no name for a migration: use a few words of letters and digits, such as 'add due dates'"
        )
    return re.sub("[ -]", "_", words).lower()


def _writable_folder(module: ModuleLike) -> Path:
    folder = module.migrations
    if folder is None:
        raise UsageError(f"module {module.name} has no migrations folder: declare one, migrations=Path(…)")
    if not folder.is_dir():
        raise UsageError(f"module {module.name}: there is no folder {folder}: make it first")
    if _is_installed(folder) or not os.access(folder, os.W_OK):
        raise UsageError(f"module {module.name} is installed, or may not be written to, in {folder}: use its checkout")
    return folder


def _is_installed(folder: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(folder.resolve().parts))
