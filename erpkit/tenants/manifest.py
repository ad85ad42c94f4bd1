"""The manifest of an export file, the check that the file is complete, and partial files."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from erpkit.errors import UsageError

FORMAT = 1
MANIFEST = "manifest.json"
DUMP = "dump"

_CHUNK = 2**20  # bytes; an archive's table of contents takes 200 for two members
_LONGEST = 16 * 2**20  # of a manifest; one with a thousand tables takes 50 kB

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)


@dataclass(frozen=True)
class Manifest:
    """The contents of an export file: the exact `rows` of each table, the applied `versions` of each module, the dump's `sha256`.

    `left_out` lists what the tenant has and the file does not, `needs` what must exist where it is imported.
    """

    slug: str
    name: str
    schema: str
    created_at: str
    server_version: int
    versions: dict[str, list[int]]
    rows: dict[str, int] = field(repr=False)
    sha256: str
    format: int = FORMAT
    left_out: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @property
    def row_count(self) -> int:
        """How many rows it holds."""
        return sum(self.rows.values())

    def to_json(self) -> str:
        """Return it as JSON with a checksum, so that edits are detected."""
        return json.dumps(asdict(self) | {"checksum": _checksum(asdict(self))}, indent=2)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of an export file; raises UsageError for one that is truncated, edited, too new or too large."""
    with _opened(path) as file:
        return _read(path, file)


def verify_export(path: Path, copy_to: IO[bytes] | None = None) -> Manifest:
    """Read a whole export file and compare it with its manifest; the dump is copied to `copy_to`, if given.

    Raises UsageError for a file that is truncated, edited or too new, or that `export_tenant` cannot have written: no file may
    take more memory or disk than its own size.
    """
    with _opened(path) as file:
        manifest = _read(path, file)
        with file.open(DUMP) as dump:
            found = _copy(dump, copy_to)
    if found != manifest.sha256:
        raise UsageError(f"{path}: the dump was changed after the export (sha256 differs); nothing was done")
    return manifest


class _Bounded(io.BufferedReader):
    """A file that reads at most a chunk at once, as zipfile would read a table of contents of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = _CHUNK
        if size > _CHUNK:
            raise zipfile.BadZipFile(f"its table of contents is longer than {_CHUNK // 2**20} MiB")
        return super().read(size)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        # O_NONBLOCK, so that a pipe or a device does not block.
        with _Bounded(io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))) as content:
            if not stat.S_ISREG(os.fstat(content.fileno()).st_mode):
                raise UsageError(f"{path} cannot be read: it is not a regular file")
            with zipfile.ZipFile(content) as file:
                _check_members(file)
                yield file
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path} is truncated, damaged or not an export file: {error}; nothing was done") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None


def _check_members(file: zipfile.ZipFile) -> None:
    """Refuse other members than an export has, duplicates, and members that are larger than the space that they take."""
    members = file.infolist()
    if sorted(member.filename for member in members) != sorted((MANIFEST, DUMP)):
        raise zipfile.BadZipFile(f"it does not hold {MANIFEST} and {DUMP}, once each and nothing else")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise zipfile.BadZipFile(f"its {member.filename} is compressed")
    if file.getinfo(MANIFEST).file_size > _LONGEST:
        raise zipfile.BadZipFile(f"its {MANIFEST} is longer than {_LONGEST // 2**20} MiB")


def _read(path: Path, file: zipfile.ZipFile) -> Manifest:
    with file.open(MANIFEST) as member:
        return _parse(path, b"".join(iter(lambda: member.read(_CHUNK), b"")))


def _parse(path: Path, text: bytes) -> Manifest:
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - slow to import

    try:
        values = json.loads(text, object_pairs_hook=_unambiguous)
        version = values["format"]
        if isinstance(version, int) and version > FORMAT:
            raise UsageError(f"{path} has format {version}; this erpkit reads up to {FORMAT}: update erpkit")
        checksum = values.pop("checksum")
        manifest = TypeAdapter(Manifest).validate_json(json.dumps(values), strict=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ValidationError):
        raise UsageError(f"{path}: its manifest cannot be read; nothing was done") from None
    if checksum != _checksum(values):
        raise UsageError(f"{path}: its manifest was edited (checksum differs); nothing was done")
    if not _SCHEMA.fullmatch(manifest.schema):
        raise UsageError(f"{path}: the schema in its manifest is not a valid name; nothing was done")
    return manifest


def _unambiguous(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("duplicate key")
    return values


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _copy(dump: IO[bytes], target: IO[bytes] | None) -> str:
    digest = hashlib.sha256()
    while chunk := dump.read(_CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


_PREFIX, _SUFFIX = ".erpkit-", ".partial"


@contextmanager
def partial_file(folder: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Create a file in `folder` that only its owner can read, and remove its name at the end: to keep it, link it to another name.

    The file is locked for the life of the process. A process id in its name would not do: it may be reused, or belong to another
    container that shares the folder.
    """
    file, path = _make(folder)
    with file:
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)


def sweep_partial_files(folder: Path) -> None:
    """Remove the partial files of killed processes from `folder`, as far as they can be removed."""
    with suppress(OSError):
        for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            with suppress(OSError):
                _remove_if_left(path)


def _make(folder: Path) -> tuple[IO[bytes], Path]:
    """Create a locked file; if another process removed it before it was locked, create another one."""
    while True:
        descriptor, name = tempfile.mkstemp(_SUFFIX, _PREFIX, folder)
        file = os.fdopen(descriptor, "w+b")
        with suppress(OSError):  # on a file system without locks, no sweep removes it either
            fcntl.flock(file, fcntl.LOCK_EX)  # waits for a sweep that looks at it
        if os.fstat(descriptor).st_nlink:
            return file, Path(name)
        file.close()


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(descriptor)
