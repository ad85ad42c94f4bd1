"""What an export file says of itself, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from erpkit.errors import UsageError

__all__ = ["DUMP", "FORMAT", "MANIFEST", "Manifest", "digest_of", "read_manifest", "verify_export"]

FORMAT = 1
MANIFEST = "manifest.json"
DUMP = "dump"

_CHUNK = 2**20


@dataclass(frozen=True)
class Manifest:
    """Whose data a file holds: exact `rows` a table, the applied `versions` of each module, and the dump's `sha256`."""

    slug: str
    name: str
    schema: str
    created_at: str
    server_version: int
    versions: dict[str, list[int]]
    rows: dict[str, int] = field(repr=False)
    sha256: str
    format: int = FORMAT

    @property
    def row_count(self) -> int:
        """How many rows it holds, all in all."""
        return sum(self.rows.values())

    def to_json(self) -> str:
        """Return it as JSON, with a checksum of its own, so that an edited one is noticed."""
        return json.dumps(asdict(self) | {"checksum": _checksum(asdict(self))}, indent=2)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an export file; raises UsageError for one that is truncated, edited or too new."""
    with _opened(path) as file:
        return _parse(path, file.read(MANIFEST))


def verify_export(path: Path, copy_to: Path | None = None) -> Manifest:
    """Read all of an export file and compare it with its manifest; `copy_to` is where its dump is unpacked, if wanted.

    Raises UsageError for one that is truncated, edited or too new.
    """
    with _opened(path) as file:
        manifest = _parse(path, file.read(MANIFEST))
        with file.open(DUMP) as dump:
            found = _copy(dump, copy_to)
    if found != manifest.sha256:
        raise UsageError(f"{path}: the dump is not the one that was exported (sha256 differs); nothing was done")
    return manifest


def digest_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path} is truncated, damaged or no export file: {error}; nothing was done") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse(path: Path, text: bytes) -> Manifest:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - slow to import

    try:
        values = json.loads(text)
        version = values["format"]
        if isinstance(version, int) and version > FORMAT:
            raise UsageError(f"{path} has format {version}; this erpkit reads up to {FORMAT}: update erpkit")
        checksum = values.pop("checksum")
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(values), strict=True)
    except (ValueError, TypeError, KeyError, AttributeError, ValidationError):
        raise UsageError(f"{path}: its manifest cannot be read; nothing was done") from None
    if checksum != _checksum(values):
        raise UsageError(f"{path}: its manifest was edited (checksum differs); nothing was done")
    return manifest


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _copy(dump: IO[bytes], target: Path | None) -> str:
    digest = hashlib.sha256()
    with (target or Path("/dev/null")).open("wb") as copy:
        while chunk := dump.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()
