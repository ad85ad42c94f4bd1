"""Exporting a tenant: one file that holds a pg_dump of its schema and a manifest, both of one moment."""

from __future__ import annotations

import os
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from erpkit.database import Connection, Database, Tenant, check_schema_name
from erpkit.errors import DatabaseError, UsageError
from erpkit.migrations import read_applied
from erpkit.tenants.manifest import DUMP, MANIFEST, Manifest, digest_of
from erpkit.tenants.programs import find_program, run_program, without_password
from erpkit.tenants.registry import has_schema
from erpkit.tenants.rows import count_rows

__all__ = ["export_tenant"]


def export_tenant(database: Database, tenant: Tenant, path: Path) -> Manifest:
    """Write a tenant's schema to the file `path`, readable by its owner alone, and return what it holds.

    Dump, row counts and versions are of one snapshot. The file appears under its name when it is whole. Raises UsageError
    where there is such a file already, DatabaseError when pg_dump fails.
    """
    path = path.absolute()
    if path.exists():
        raise UsageError(f"{path} is there already: choose another name or move it away")
    try:
        with tempfile.TemporaryDirectory(prefix=".erpkit-", dir=path.parent) as folder:
            dump, whole = Path(folder, DUMP), Path(folder, "whole")
            manifest = _dump(database, tenant, dump)
            _pack(manifest, dump, whole)
            os.link(whole, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        raise UsageError(f"{path} is there already: choose another name or move it away") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
    return manifest


def _dump(database: Database, tenant: Tenant, path: Path) -> Manifest:
    with database.connection() as connection:
        if not has_schema(connection, check_schema_name(tenant.schema)):
            raise DatabaseError(f"tenant {tenant.slug}: there is no schema {tenant.schema}")
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                return _dump_snapshot(connection, tenant, path)
        except psycopg.Error as error:
            reason = error.diag.message_primary or str(error).strip()
            raise DatabaseError(f"tenant {tenant.slug} cannot be exported: {reason}") from error


def _dump_snapshot(connection: Connection, tenant: Tenant, path: Path) -> Manifest:
    program = find_program("pg_dump", connection.info.server_version)
    row = connection.execute(sql.SQL("SELECT pg_export_snapshot()")).fetchone()
    rows = count_rows(connection, tenant.schema)
    versions = read_applied(connection, [tenant])
    run_program(
        [
            program, "--format=custom", f"--schema={tenant.schema}", "--no-owner", "--no-privileges", "--no-password",
            "--lock-wait-timeout=10s", f"--snapshot={row[0] if row else ''}", f"--file={path}",
            f"--dbname={without_password(connection)}",
        ],
        connection,
    )  # fmt: skip
    return Manifest(
        slug=tenant.slug,
        name=tenant.name,
        schema=tenant.schema,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        server_version=connection.info.server_version,
        versions=versions.versions_in(tenant.schema),
        rows=rows,
        sha256=digest_of(path),
    )


def _pack(manifest: Manifest, dump: Path, whole: Path) -> None:
    whole.touch(mode=0o600)
    with whole.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # the dump is compressed already
            archive.writestr(MANIFEST, manifest.to_json())
            archive.write(dump, DUMP)
        file.flush()
        os.fsync(file.fileno())
