"""Import a tenant from an export file, into any database and under any name, all or nothing."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO

import psycopg

from erpkit.database import Connection, Database, Tenant, as_owner, connect_beside, create_schema, give_to_owner
from erpkit.errors import DatabaseError, UsageError, first_line
from erpkit.migrations import read_applied
from erpkit.tenants.exports import find_program, open_program
from erpkit.tenants.health import count_rows
from erpkit.tenants.lifecycle import MovedTenant, find_mentions, new_tenant, prepare_database, refuse_taken, register
from erpkit.tenants.manifest import Manifest, sweep_partial_files, verify_export
from erpkit.tenants.registry import check_slug, get_tenant
from erpkit.tenants.roles import create_roles, grant_schema

_TRANSACTION_TIMEOUT = 170000  # the first server that knows this setting, which newer programs always write

# The tokens of a script that pg_restore wrote; only a plain name may be a schema's.
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
    """Create a tenant from an export file, under its own name or under `slug`, and return it.

    Running dispatchers serve it at once, unless its `status` is not active. The file is verified first, then row counts and
    versions are compared with its manifest, all in one transaction, so that an error leaves nothing. Raises UsageError for a file
    that is truncated, edited or too new, and for a taken name. The file's DDL is executed as it is: import only files whose origin
    you trust. Like ALTER SCHEMA, it does not rewrite function bodies and other texts that name the old schema: the result lists
    them as `mentions`.
    """
    database.check_writable()
    sweep_partial_files(path.absolute().parent)
    with tempfile.TemporaryFile() as dump:  # without a name, so that nothing is left if this process is killed
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
    """Replace the schema `old` by `new` in a script without data, and remove psql's own commands.

    Names are replaced if they qualify another (`old.table`) or follow SCHEMA, and texts if they name an object
    (`'old.seq'::regclass`, `setval('old.seq'`). Comments, other texts and function bodies stay unchanged.
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
    """Restore the dump on a separate connection, which is closed afterwards, as the script changes settings of the session.

    It runs as the schema's owner. If that lacks a privilege, everything is done again `as_login`.
    """
    try:
        with connect_beside(connection) as own, own.transaction():
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
            raise DatabaseError(f"tenant {tenant.slug} cannot be imported: {first_line(error)}") from error
        raise UsageError(f"tenant {tenant.slug} cannot be imported: another process has just created it") from None
    except (psycopg.errors.DuplicateObject, psycopg.errors.DuplicateSchema) as error:
        raise UsageError(f"tenant {tenant.slug} cannot be imported: {first_line(error)}") from None
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege) and not as_login:
            return _import(connection, tenant, manifest, dump, as_login=True)
        raise DatabaseError(
            f"tenant {tenant.slug} cannot be imported: {first_line(error)}; nothing was imported"
        ) from error


def _restore(connection: Connection, tenant: Tenant, manifest: Manifest, dump: IO[bytes]) -> None:
    program = find_program("pg_restore", manifest.server_version)
    command: list[str | Path] = [program, "--no-owner", "--no-privileges", "--no-tablespaces", "--file=-"]
    for section in ("pre-data", "data", "post-data"):
        dump.seek(0)  # on systems where /dev/fd shares the position of the open file
        with open_program([*command, f"--section={section}", f"/dev/fd/{dump.fileno()}"], file=dump.fileno()) as output:
            if section == "data":
                _copy_data(connection, output, manifest.schema, tenant.schema)
            else:
                _run_script(connection, output.read().decode(), manifest.schema, tenant.schema)


def _run_script(connection: Connection, script: str, old: str, new: str) -> None:
    script = script.replace(_SEARCH_PATH, f"SET LOCAL search_path TO {new}, pg_temp;", 1)
    if connection.info.server_version < _TRANSACTION_TIMEOUT:
        script = script.replace("SET transaction_timeout = 0;\n", "", 1)
    script = rename_in_script(script, old, new).replace(f"CREATE SCHEMA {new};\n", "", 1)  # it exists already
    connection.execute(script.encode())


def _copy_data(connection: Connection, output: IO[bytes], old: str, new: str) -> None:
    """Run the statements between the data, line by line, and copy the data unchanged."""
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
            f"tenant {tenant.slug}: the numbers of rows of {', '.join(wrong[:5])} differ from the export; nothing was imported"
        )
    versions = read_applied(connection, [tenant]).versions_in(tenant.schema)
    if versions != manifest.versions:
        raise DatabaseError(
            f"tenant {tenant.slug}: its migration versions differ from the export; nothing was imported"
        )
