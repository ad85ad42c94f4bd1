"""What is told of a migration that failed, in one line: who held a lock, what was left behind, what to do."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from erpkit.database import Connection, Tenant
from erpkit.database.rights import name_grant
from erpkit.errors import DatabaseError
from erpkit.migrations import golang
from erpkit.migrations.files import Migration
from erpkit.migrations.parser import Direction
from erpkit.migrations.place import place_of
from erpkit.migrations.script import LEFT, NO_SCHEMA, Limits

# Who has a lock on an object of the schema, on the schema itself, on its migrations, or writes to a table of the registry.
_HOLDERS = """
SELECT DISTINCT coalesce(l.pid, 0), coalesce(a.usename, x.owner, ''), coalesce(nullif(a.application_name, ''), x.gid, 'unnamed'),
       a.state, round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, x.prepared))),
       round(extract(epoch FROM clock_timestamp() - a.query_start))
  FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
  LEFT JOIN pg_prepared_xacts x ON l.pid IS NULL AND x.transaction::text = split_part(l.virtualtransaction, '/', 2)
  LEFT JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (n.nspname = %(schema)s AND c.relkind IN ('r', 'p', 'm', 'v', 'S', 'f')
        OR n.nspname || '.' || c.relname = ANY(%(tables)s::text[]) AND l.mode <> 'AccessShareLock'
        OR l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass
           AND l.objid = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
        OR l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended('erpkit.migrate.' || %(schema)s, 0)
        OR l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint = hashtextextended('erpkit.use.' || %(schema)s, 0))
 ORDER BY 5 DESC NULLS LAST LIMIT 3
"""

_INVALID = """
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND NOT x.indisvalid ORDER BY 1
"""


def name_right(connection: Connection, tenant: Tenant, error: psycopg.Error) -> None:
    """Note on a refusal what right is missing; in an adopted tenant's schema it is one of the ERP's own login."""
    if not isinstance(error, psycopg.errors.InsufficientPrivilege):
        return
    if tenant.owner is None or "set role" in str(error):
        name_grant(connection, error)
    else:
        error.add_note(f"it runs as {tenant.owner}, which lacks that right: the ERP's own tool would fail as well")


def is_lost(error: BaseException | None) -> bool:
    """Tell whether the connection was lost, or none could be had, rather than a statement refused."""
    if isinstance(error, DatabaseError):
        return True
    state = error.sqlstate if isinstance(error, psycopg.OperationalError) else ""
    return state is None or state.startswith(("08", "57P"))


def explain(tenant: Tenant, migration: Migration, error: BaseException, limits: Limits, tries: int = 1) -> str:
    """Say in one line what went wrong, with the name of the tenant and the file, and what to do where that is known.

    `tries` is how often a lock was asked for.
    """
    if NO_SCHEMA in str(error) or NO_SCHEMA in getattr(error, "__notes__", ()):
        return f"tenant {tenant.slug}: its schema {tenant.schema} does not exist any more: it was dropped or renamed"
    reason = message_of(error, migration)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        reason = "; ".join([reason, *getattr(error, "__notes__", [])])
    elif isinstance(error, psycopg.errors.LockNotAvailable):
        notes = "; ".join(getattr(error, "__notes__", [])[-1:])
        place = place_of(error)
        where = f"; {place}" if place is not None else ""
        lock = f"{golang.TOOL}'s lock" if golang.TOOL in str(error) else "a lock"
        reason = f"could not get {lock} within {limits.lock_timeout:g} s, tried {tries} times{notes}{where}"
    elif isinstance(error, psycopg.errors.QueryCanceled) and limits.statement_timeout:
        reason = reason.replace("timeout", f"timeout (limit {limits.statement_timeout:g} s)", 1)
    return f"tenant {tenant.slug}: {file_of(migration)} failed: {reason}"


def note_missing_schema(connection: Connection, tenant: Tenant, error: psycopg.Error) -> None:
    """Note it on an error about a missing table or schema if it is the tenant's own schema that does not exist."""
    if not isinstance(error, psycopg.errors.InvalidSchemaName | psycopg.errors.UndefinedTable):
        return
    found = connection.execute("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = %s", [tenant.schema])
    if found.fetchone() is None:
        error.add_note(NO_SCHEMA)


def message_of(error: BaseException, migration: Migration) -> str:
    """Return PostgreSQL's message, detail and hint in one line, and the statement; only the kind of error where a secret could be
    in it.
    """
    if not isinstance(error, psycopg.Error):
        return str(error)
    place = place_of(error)
    where = f"; {place}" if place is not None else ""
    if migration.content.uses_environment:
        kind = f"{type(error).__name__} ({error.sqlstate})"
        return f"{kind}; the text is left out, as values of the environment may be in it{where}"
    lines = (error.diag.message_primary or str(error)).strip().splitlines() or [type(error).__name__]
    if LEFT in lines[0]:
        found = lines[0].partition(LEFT)[2].strip(' "')
        return (
            f"it leaves the tenant's schema: afterwards the role is {found}; leave both as they are, and name no schema"
        )
    detail = f" ({_one_line(error.diag.message_detail)})" if error.diag.message_detail else ""
    hint = f"; hint: {_one_line(error.diag.message_hint)}" if error.diag.message_hint else ""
    context = f"; in {_one_line(error.diag.context)}" if error.diag.context and place is not None else ""
    return f"{lines[0]}{detail}{hint}{context}{where}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def file_of(migration: Migration, direction: Direction = "up") -> str:
    """Name a migration's file for people: module and file."""
    return f"{migration.module}/{migration.file(direction).name}"


def describe_holders(connection: Connection, tenant: Tenant, tables: Sequence[str] = ()) -> str:
    """Say which transactions hold locks on a tenant's objects, or its migration lock, or write to `tables` as well.

    Empty where none does. Their statements are left out: they may hold secrets.
    """
    try:
        rows = connection.execute(_HOLDERS, {"schema": tenant.schema, "tables": list(tables)}).fetchall()
    except psycopg.Error:  # the holders are extra information only
        return ""
    return f"; held by {', '.join(_describe_holder(*row) for row in rows)}" if rows else ""


def _describe_holder(
    pid: int, user: str, app: str, state: str | None, seconds: float | None, query_seconds: float | None
) -> str:
    who = f"{user}, {app}".encode("unicode_escape").decode()  # the name of a role may hold control characters
    if not pid:
        return f"a prepared transaction ({who}, for {seconds or 0:.0f} s)"
    statement = f", last statement begun {query_seconds:.0f} s ago" if query_seconds is not None else ""
    return f"process {pid} ({who}, {state or 'state unknown'} for {seconds or 0:.0f} s{statement})"


def describe_invalid_indexes(connection: Connection, tenant: Tenant) -> str:
    """Name the invalid indexes that a failed CREATE INDEX CONCURRENTLY leaves, and how to remove them."""
    try:
        names = [name for (name,) in connection.execute(_INVALID, [tenant.schema])]
    except psycopg.Error:
        return ""
    return "".join(f"; index {name} is invalid: DROP INDEX CONCURRENTLY {name}, then run it again" for name in names)
