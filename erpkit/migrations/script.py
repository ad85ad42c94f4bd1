"""The SQL text that applies one migration to one tenant: pure functions from a migration to a message."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import sql

from erpkit.database import Tenant, check_schema_name, search_path
from erpkit.errors import MigrationError
from erpkit.migrations.files import Migration
from erpkit.migrations.history import Run, note_start, record_done
from erpkit.migrations.parser import Direction

__all__ = [
    "Limits",
    "check_schema",
    "check_statements",
    "create_version_table",
    "lock_schema",
    "migration_body",
    "migration_message",
]

NOT_DUE = "erpkit: not due"
NO_SCHEMA = "erpkit: no schema"

# Quoted text and comments, as PostgreSQL's scanner sees them (manual, "Lexical Structure"); an open one runs to the end.
_QUOTED = re.compile(
    r"""
      (?P<comment> --[^\n]* )
    | (?P<escaped> (?<![\w$]) [eE]' (?: [^'\\] | '' | \\. )* (?P<e>') )
    | (?P<string> ' (?: [^'] | '' )* (?P<s>'|\Z) )
    | (?P<name> " (?: [^"] | "" )* (?P<n>"|\Z) )
    | (?P<dollar> (?<![\w$]) \$ (?P<tag> (?:[A-Za-z_\x80-\uffff][\w]*)? ) \$ .*? (?P<d> \$ (?P=tag) \$ | \Z ) )
    | (?P<block> /\* .*? (?P<b> \*/ | \Z ) )
    """,
    re.VERBOSE | re.DOTALL,
)
_ENDS_TRANSACTION = re.compile(
    r"(begin|commit|rollback|abort|end|start\s+transaction|prepare\s+transaction)\b(?!\s+to\b)", re.I
)
_COPIES = re.compile(r"(?:^|;)\s*copy\b[^;]*\b(?:from\s+stdin|to\s+stdout)\b", re.I)


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, a migration may wait for a lock and a statement may take; 0 is without end.

    A lock that is not had in time is tried again `attempts` times in all, with a growing pause between. A server that was
    lost is waited for `reconnect` seconds, and a little more.
    """

    lock_timeout: float = 3
    statement_timeout: float = 0
    attempts: int = 5
    reconnect: float = 60


def migration_message(
    tenant: Tenant, migration: Migration, direction: Direction, run: Run, limits: Limits, *, new_table: bool = True
) -> bytes:
    """Return one whole transaction, to be sent in one round trip: scope, lock, guard, the statements, the records.

    PostgreSQL leaves out the rest of a message after an error, so that nothing but a ROLLBACK is to be done then.
    """
    statements = [
        # Not what the database may have as its default: the guard must see what was committed while the lock was waited for.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL search_path TO {search_path(tenant.schema)}",
        f"SET LOCAL lock_timeout TO {int(limits.lock_timeout * 1000)}",
        f"SET LOCAL statement_timeout TO {int(limits.statement_timeout * 1000)}",
        "SET LOCAL client_min_messages TO warning",
        lock_schema(tenant),
        check_schema(tenant),
        *migration_body(tenant, migration, direction, run, new_table=new_table),
        "COMMIT",
    ]
    return "\n;\n".join(statements).encode()


def migration_body(
    tenant: Tenant, migration: Migration, direction: Direction, run: Run, *, new_table: bool = True
) -> list[str]:
    """Return the statements of a migration between its guard and its records, for a transaction that is scoped already."""
    return [
        *([create_version_table(tenant, migration)] if new_table else []),
        _guard(tenant, migration, direction),
        note_start(),
        *migration.content.statements(direction),
        record_done(tenant, migration, direction, run).as_string(),
    ]


def lock_schema(tenant: Tenant, *, session: bool = False) -> str:
    """Return the statement that keeps every other runner from a tenant's schema, and its removal or renaming, too.

    goose takes one key for the whole database, which makes tenants wait for each other.
    """
    function = "pg_advisory_lock" if session else "pg_advisory_xact_lock"
    return f"SELECT {function}(hashtextextended('erpkit.migrate.{check_schema_name(tenant.schema)}', 0))"


def check_schema(tenant: Tenant) -> str:
    """Return the statement that fails unless the tenant's schema is the present one; it may go while its lock is waited for.

    A value that is no number stops the message; it is not a constant, or PostgreSQL would work it out for every tenant.
    """
    schema = check_schema_name(tenant.schema)
    return (  # the catalogue itself: what current_schema() knows may be older than the lock
        f"SELECT ('{NO_SCHEMA} ' || pg_backend_pid())::int WHERE current_schema() IS DISTINCT FROM '{schema}' "  # noqa: S608 - checked
        f"OR NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{schema}')"
    )


def create_version_table(tenant: Tenant, migration: Migration) -> str:
    """Return the statements that make goose's version table, if it is missing, with the row of version 0 in it."""
    table = sql.Identifier(tenant.schema, migration.version_table).as_string()
    create = (
        f"CREATE TABLE IF NOT EXISTS {table} (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, "
        "version_id bigint NOT NULL, is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now())"
    )
    seed = f"INSERT INTO {table} (version_id, is_applied) SELECT 0, true WHERE NOT EXISTS (SELECT FROM {table})"  # noqa: S608
    return f"{create};\n{seed}"


def not_due(tenant: Tenant, migration: Migration, direction: Direction) -> str:
    """Return a query that has a row if the migration is not to be done any more: another runner was faster."""
    table = sql.Identifier(tenant.schema, migration.version_table).as_string()
    negate = "" if direction == "up" else "NOT "
    return (
        f"WHERE {negate}coalesce((SELECT is_applied FROM {table} "  # noqa: S608
        f"WHERE version_id = {migration.version} ORDER BY id DESC LIMIT 1), false)"
    )


def _guard(tenant: Tenant, migration: Migration, direction: Direction) -> str:
    return f"SELECT ('{NOT_DUE} ' || pg_backend_pid())::int {not_due(tenant, migration, direction)}"


def check_statements(migration: Migration) -> None:
    """Raise MigrationError for statements that would not mean the same to goose, or would end the migration's transaction.

    goose sends each statement alone; here they go together, and so a quote that is open at the end of one would swallow the
    next.
    """
    for direction in ("up", "down"):
        for number, statement in enumerate(migration.content.statements(direction), start=1):
            where = f"{migration.path}: {direction} statement {number}"
            bare, is_open = _without_quotes(statement)
            if is_open:
                raise MigrationError(
                    f"{where} ends inside a quote or a comment: goose splits at each line that ends in ';'; "
                    "put it between '-- +goose StatementBegin' and StatementEnd"
                )
            if "\0" in statement:
                raise MigrationError(f"{where} holds a zero byte: PostgreSQL would not see what follows it")
            if _COPIES.search(bare):
                raise MigrationError(f"{where} copies from or to the client, which there is none: write INSERT instead")
            if migration.content.use_transaction and (found := _transaction_command(bare)):
                raise MigrationError(
                    f"{where} is {found.upper()}: a migration is one transaction; use '-- +goose NO TRANSACTION' instead"
                )


def _without_quotes(statement: str) -> tuple[str, bool]:
    """Return the statement without comments and quoted text, and whether a quote or a comment is still open at its end."""
    is_open = False

    def blank(match: re.Match[str]) -> str:
        nonlocal is_open
        ends = [match[mark] for mark in ("e", "s", "n", "d", "b") if match[mark] is not None]
        is_open = is_open or ends == [""]
        return " " if match["comment"] or match["block"] else "''"

    return _QUOTED.sub(blank, statement), is_open


def _transaction_command(bare: str) -> str | None:
    if re.search(r"\bbegin\s+atomic\b", bare, re.I):  # the body of an SQL function ends in END
        return None
    for part in bare.split(";"):
        if found := _ENDS_TRANSACTION.match(part.strip()):
            return found[1]
    return None
