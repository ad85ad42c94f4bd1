"""Importing a tenant from an export file: into any database, under any name, and all or nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import psycopg

from erpkit.database import Connection, Database, Tenant, as_owner, create_schema, give_to_owner
from erpkit.errors import DatabaseError, UsageError
from erpkit.migrations import read_applied
from erpkit.tenants.exports import find_program, open_program
from erpkit.tenants.health import count_rows
from erpkit.tenants.lifecycle import MovedTenant, find_mentions, new_tenant, prepare_database, refuse_taken, register
from erpkit.tenants.manifest import Manifest, sweep_partial_files, verify_export
from erpkit.tenants.registry import check_slug, get_tenant
from erpkit.tenants.roles import create_roles, grant_schema

__all__ = ["import_tenant", "rename_in_script"]

_TRANSACTION_TIMEOUT = 170000  # the first server that knows this setting, which newer programs always write

# What a script that pg_restore wrote is made of; only a name outside of all else may be a schema's.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*)
      | (?P<command>^\\[^\n]*)
      | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$
      | (?P<text>(?<![\w$])[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*')
      | "(?:[^"]|"")*"
      | (?P<name>[A-Za-z_\u0080-\U0010ffff][\w$]*)""",
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_SEARCH_PATH = "SELECT pg_catalog.set_config('search_path', '', false);"
_CHUNK = 2**16


def import_tenant(database: Database, path: Path, slug: str | None = None, *, status: str = "active") -> MovedTenant:
    """Make a tenant from an export file, under its own name or under `slug`, and return it.

    A dispatcher that runs serves it from the moment it is there, unless its `status` is another one than active.

    The file is verified first, the row counts and versions afterwards against its manifest; all happens in one
    transaction, so that a fault leaves nothing. Raises UsageError for a file that is truncated, edited or too new, and for a
    name that is taken. The file's schema is executed as it is: import only files whose origin you trust. Function bodies
    and other texts that name the old schema are not rewritten, as PostgreSQL's ALTER SCHEMA does not either: the result's
    `mentions` are these.
    """
    database.check_writable()
    sweep_partial_files(path.absolute().parent)
    with tempfile.TemporaryFile() as dump:  # without a name, so that nothing is left of it when we are killed
        manifest = verify_export(path, dump)
        check_slug(slug or manifest.slug)
        with database.connection() as connection:
            _check_version(connection, manifest)
            prepare_database(connection)
            tenant = replace(new_tenant(connection, slug or manifest.slug, manifest.name), status=status)
            refuse_taken(connection, tenant)
            _import(connection, tenant, manifest, dump)
            mentions = find_mentions(connection, manifest.schema, tenant.schema)
            return MovedTenant(get_tenant(connection, tenant.slug), mentions)


def rename_in_script(script: str, old: str, new: str) -> str:
    """Replace the schema `old` by `new` in a script without data, and drop the commands in it that are psql's.

    Names are replaced where they qualify another (`old.table`) or follow SCHEMA, and texts where they stand for an object
    (`'old.seq'::regclass`, `setval('old.seq'`). Comments, other texts and function bodies are left alone.
    """

    def substitute(match: re.Match[str]) -> str:
        found, before, after = match[0], script[: match.start()][-24:], script[match.end() : match.end() + 5]
        if match["command"] is not None:
            return ""
        if match["text"] is not None:
            stands_for_object = after.startswith("::reg") or before.endswith("setval(")
            return found.replace(f"'{old}.", f"'{new}.", 1) if stands_for_object else found
        if match["name"] == old and (
            (after.startswith(".") and not before.endswith(".")) or before.upper().endswith("SCHEMA ")
        ):
            return new
        return found

    return _TOKEN.sub(substitute, script)


def _check_version(connection: Connection, manifest: Manifest) -> None:
    theirs, ours = manifest.server_version // 10_000, connection.info.server_version // 10_000
    if theirs > ours:
        raise UsageError(f"the export comes from PostgreSQL {theirs} and this server is {ours}: nothing was imported")


def _import(
    connection: Connection, tenant: Tenant, manifest: Manifest, dump: IO[bytes], *, as_login: bool = False
) -> None:
    """Work on a connection of its own, which is thrown away: the script of a dump changes settings of the session.

    The dump is restored as the schema's owner. What it may not do the login may, perhaps: then all is done again `as_login`.
    """
    info = connection.info
    try:
        with (
            psycopg.connect(info.dsn, password=info.password or None, autocommit=True) as own,
            own.transaction(),
        ):
            own.execute("SET LOCAL client_min_messages TO warning")
            create_roles(own, tenant)
            create_schema(own, tenant.schema)
            with nullcontext() if as_login else as_owner(own, tenant.schema):
                _restore(own, tenant, manifest, dump)
            if as_login:
                own.execute(give_to_owner(tenant.schema).encode())
            grant_schema(own, tenant)
            _verify(own, tenant, manifest)
            register(own, tenant)
    except psycopg.errors.UniqueViolation as error:
        if error.diag.table_name not in ("pg_authid", "pg_namespace", "tenants", "erpkit_tenants"):
            raise DatabaseError(f"tenant {tenant.slug} cannot be imported: {error.diag.message_primary}") from error
        raise UsageError(f"tenant {tenant.slug} cannot be imported: somebody else has just created it") from None
    except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateSchema) as error:
        raise UsageError(f"tenant {tenant.slug} cannot be imported: {error.diag.message_primary}") from None
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and not as_login:
            return _import(connection, tenant, manifest, dump, as_login=True)
        reason = error.diag.message_primary or str(error).strip()
        raise DatabaseError(f"tenant {tenant.slug} cannot be imported: {reason}; nothing of it was kept") from error


def _restore(connection: Connection, tenant: Tenant, manifest: Manifest, dump: IO[bytes]) -> None:
    program = find_program("pg_restore", manifest.server_version)
    command: list[str | Path] = [program, "--no-owner", "--no-privileges", "--no-tablespaces", "--file=-"]
    for section in ("pre-data", "data", "post-data"):
        dump.seek(0)  # where /dev/fd shares the position rather than opening the file anew
        with open_program([*command, f"--section={section}", f"/dev/fd/{dump.fileno()}"], file=dump.fileno()) as output:
            if section == "data":
                _copy_data(connection, output, manifest.schema, tenant.schema)
            else:
                _run_script(connection, output.read().decode(), manifest.schema, tenant.schema)


def _run_script(connection: Connection, script: str, old: str, new: str) -> None:
    script = script.replace(_SEARCH_PATH, f"SET LOCAL search_path TO {new}, pg_temp;", 1)
    if connection.info.server_version < _TRANSACTION_TIMEOUT:
        script = script.replace("SET transaction_timeout = 0;\n", "", 1)
    script = rename_in_script(script, old, new).replace(f"CREATE SCHEMA {new};\n", "", 1)  # it is there
    connection.execute(script.encode())


def _copy_data(connection: Connection, output: IO[bytes], old: str, new: str) -> None:
    """Run what is outside of the data, line by line; hand the data on as they are."""
    for line in output:
        statement = rename_in_script(line.decode(), old, new).strip()
        if statement.startswith("COPY "):
            with connection.cursor().copy(statement.encode()) as copy:
                for chunk in _data_chunks(output):
                    copy.write(chunk)
        elif statement.startswith("SELECT pg_catalog.setval("):
            connection.execute(statement.encode())


def _data_chunks(output: IO[bytes]) -> Iterator[bytes]:
    lines: list[bytes] = []
    size = 0
    for line in output:
        if line == b"\\.\n":
            break
        lines.append(line)
        size += len(line)
        if size > _CHUNK:
            yield b"".join(lines)
            lines, size = [], 0
    yield b"".join(lines)


def _verify(connection: Connection, tenant: Tenant, manifest: Manifest) -> None:
    found = count_rows(connection, tenant.schema)
    if found != manifest.rows:
        wrong = sorted(t for t in found.keys() | manifest.rows.keys() if found.get(t) != manifest.rows.get(t))
        raise DatabaseError(
            f"tenant {tenant.slug}: the rows of {', '.join(wrong[:5])} are not as many as were exported; nothing was kept"
        )
    versions = read_applied(connection, [tenant]).versions_in(tenant.schema)
    if versions != manifest.versions:
        raise DatabaseError(f"tenant {tenant.slug}: its migration versions are not as exported; nothing was kept")
