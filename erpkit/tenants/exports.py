"""Exporting a tenant: one file that holds a pg_dump of its schema and a manifest, both of one moment."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from erpkit.database import Connection, Database, Tenant, check_schema_name
from erpkit.embedded import find_binaries
from erpkit.errors import DatabaseError, UsageError
from erpkit.migrations import read_applied
from erpkit.tenants.health import count_rows
from erpkit.tenants.locks import WAIT, name_holders
from erpkit.tenants.losses import Loss, find_losses, find_needs
from erpkit.tenants.manifest import DUMP, MANIFEST, Manifest, partial_file, sweep_partial_files
from erpkit.tenants.registry import has_schema

_CHUNK = 2**20


def export_tenant(database: Database, tenant: Tenant, path: Path) -> Manifest:
    """Write a tenant's schema to the file `path`, readable by its owner alone, and return what it holds.

    Dump, row counts and versions are of one snapshot. The file appears under its name when it is whole; what an export that
    was killed left beside it is removed by the next one. What belongs to the tenant and is not in the file is the manifest's
    `left_out`. The history of its migrations stays in the database where they were applied. Raises UsageError where there is
    such a file already, and where data would be lost; DatabaseError when pg_dump fails.
    """
    path = path.absolute()
    if path.exists():
        raise UsageError(f"{path} is there already: choose another name or move it away")
    sweep_partial_files(path.parent)
    try:
        with partial_file(path.parent) as (file, partial):
            manifest = _export(database, tenant, file)
            os.link(partial, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        raise UsageError(f"{path} is there already: choose another name or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    return manifest


def _export(database: Database, tenant: Tenant, file: IO[bytes]) -> Manifest:
    with database.connection() as connection:
        if not has_schema(connection, check_schema_name(tenant.schema)):
            raise DatabaseError(f"tenant {tenant.slug}: there is no schema {tenant.schema}")
        try:
            with name_holders(connection, tenant, "nothing was exported"), connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                connection.execute(sql.SQL("SET LOCAL lock_timeout TO {}").format(WAIT))
                return _export_snapshot(connection, tenant, file)
        except psycopg.Error as error:
            reason = error.diag.message_primary or str(error).strip()
            raise DatabaseError(f"tenant {tenant.slug} cannot be exported: {reason}") from error


def _export_snapshot(connection: Connection, tenant: Tenant, file: IO[bytes]) -> Manifest:
    losses = find_losses(connection, tenant)
    _refuse_data_loss(tenant, losses)
    row = connection.execute(sql.SQL("SELECT pg_export_snapshot()")).fetchone()
    rows = count_rows(connection, tenant.schema)
    versions = read_applied(connection, [tenant])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # the dump is compressed already
        digest = _dump(connection, tenant, row[0] if row else "", archive)
        manifest = Manifest(
            slug=tenant.slug,
            name=tenant.name,
            schema=tenant.schema,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            server_version=connection.info.server_version,
            versions=versions.versions_in(tenant.schema),
            rows=rows,
            sha256=digest,
            left_out=tuple(map(str, losses)),
            needs=find_needs(connection, tenant),
        )
        archive.writestr(MANIFEST, manifest.to_json())
    file.flush()
    os.fsync(file.fileno())
    return manifest


def _refuse_data_loss(tenant: Tenant, losses: Sequence[Loss]) -> None:
    data = [loss for loss in losses if loss.is_data]
    if data:
        remedies = dict.fromkeys(loss.remedy for loss in data)
        raise UsageError(
            f"tenant {tenant.slug}: an export would lose {'; '.join(map(str, data))}: {'; '.join(remedies)}; "
            "nothing was exported"
        )


def _dump(connection: Connection, tenant: Tenant, snapshot: str, archive: zipfile.ZipFile) -> str:
    """Write pg_dump's output into the archive and return its sha256; through a pipe, so that pg_dump ends when we do."""
    program = find_program("pg_dump", connection.info.server_version)
    command: list[str | Path] = [
        program, "--format=custom", f"--schema={tenant.schema}", "--no-owner", "--no-privileges", "--no-password",
        "--encoding=UTF8", f"--lock-wait-timeout={WAIT}", f"--snapshot={snapshot}", f"--dbname={without_password(connection)}",
    ]  # fmt: skip
    digest = hashlib.sha256()
    with open_program(command, connection) as output, archive.open(DUMP, "w", force_zip64=True) as member:
        while chunk := output.read(_CHUNK):
            digest.update(chunk)
            member.write(chunk)
    return digest.hexdigest()


_SECRETS = frozenset({"password", "sslpassword", "oauth_client_secret"})


def find_program(name: str, server_version: int) -> Path:
    """Return a program that is at least as new as the server; raises DatabaseError, naming what there is, without one."""
    found = {path: _major(path) for path in _candidates(name)}
    major = server_version // 10_000
    fit = [path for path, version in found.items() if version >= major]
    if not fit:
        versions = ", ".join(f"{path} ({version})" for path, version in found.items()) or "none"
        raise DatabaseError(
            f"{name} must be at least as new as the server, {major}; found {versions}: install a newer one"
        )
    return fit[0]


@contextmanager
def open_program(
    command: Sequence[str | Path], connection: Connection | None = None, file: int | None = None
) -> Iterator[IO[bytes]]:
    """Run a program beside us and lend its output; raises DatabaseError with its reason when it fails.

    It connects as `connection` does, if one is given, and inherits the open `file`. When we are killed, it ends with its next
    output.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
            env=_environment(connection), pass_fds=() if file is None else (file,),
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        _check(command, code, errors.read().decode(errors="replace"))


def without_password(connection: Connection) -> str:
    """Return the connection string of `connection`, without secrets, and with the one host that it reached.

    A command line can be read by everybody on the machine; and a snapshot is known to the server that exported it alone.
    """
    known = {key: value for key, value in connection.info.get_parameters().items() if key not in _SECRETS}
    if "," in known.get("host", ""):
        known |= {"host": connection.info.host, "port": str(connection.info.port)}
        known.pop("hostaddr", None)
    return make_conninfo(**known)


def _candidates(name: str) -> list[Path]:
    installed = shutil.which(name)
    paths = [Path(installed)] if installed else []
    with suppress(DatabaseError):  # the wheel may be missing where the database is one's own
        paths.append(find_binaries() / name)
    return paths


def _major(program: Path) -> int:
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\) (\d+)", shown)
    return int(match[1]) if match else 0


def _environment(connection: Connection | None) -> dict[str, str]:
    password = connection.info.password if connection is not None else ""
    return os.environ | {"LC_ALL": "C"} | ({"PGPASSWORD": password} if password else {})


def _check(command: Sequence[str | Path], code: int, errors: str) -> None:
    if code:
        lines = (
            [line for line in errors.splitlines() if "error:" in line] or errors.splitlines() or [f"exit code {code}"]
        )
        raise DatabaseError(f"{Path(command[0]).name} failed: {lines[0].split('error: ', 1)[-1]}")
