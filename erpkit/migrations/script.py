"""The SQL text that applies one migration to one tenant: pure functions from a migration to a message."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from uuid import uuid4

from psycopg import sql

from erpkit.database import DISCARD, Tenant, act_as_maker, check_quotable, give_to_owner, search_path
from erpkit.errors import MigrationError
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.history import Run, note_start, record_done
from erpkit.migrations.parser import Direction

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

    A lock that could not be got in time is tried `attempts` times in all, with growing pauses. A server that was lost is
    waited for about `reconnect` seconds.
    """

    lock_timeout: float = 3
    statement_timeout: float = 0
    attempts: int = 5
    reconnect: float = 60


def migration_message(
    tenant: Tenant,
    steps: Sequence[Step],
    run: Run,
    limits: Limits,
    *,
    new_tables: Collection[str] = (),
    is_last: bool = False,
    as_login: bool = False,
) -> bytes:
    """Return whole transactions, one a migration, to be sent in one round trip.

    Each is scope, lock, guard, the statements and the records; `new_tables` are made where they are first needed. After the
    last step of a tenant the session is made as new, so that the next tenant may have it. It acts as the schema's owner, where
    that is the operators' role, or `as_login`, and gives what it made to that owner. PostgreSQL leaves out the rest of a
    message after an error, so that only a ROLLBACK is needed then: what was committed before stays.
    """
    pattern = replace(_ANY, owner=tenant.owner)
    message = _message(pattern, tuple(steps), run, limits, frozenset(new_tables), is_last, as_login)
    slug = sql.Literal(tenant.slug).as_string()
    return message.replace(_ANY.schema, check_quotable(tenant.schema)).replace(f"'{_ANY.slug}'", slug).encode()


# Stands for any tenant: a message is made once, and then only the names are filled in. No file holds these by chance.
_ANY = Tenant(slug=f"slug_{uuid4().hex}", schema=f"schema_{uuid4().hex}")


@lru_cache(maxsize=32)
def _message(
    tenant: Tenant, steps: tuple[Step, ...], run: Run, limits: Limits, new_tables: frozenset[str], is_last: bool, as_login: bool
) -> str:  # fmt: skip
    tables, statements = set(new_tables), list[str]()
    for migration, direction in steps:
        new_table = migration.version_table in tables
        statements += _transaction(tenant, (migration, direction), run, limits, new_table=new_table, as_login=as_login)
        tables.discard(migration.version_table)
    return "\n;\n".join([*statements, *([DISCARD] if is_last else [])])


def _transaction(
    tenant: Tenant, step: Step, run: Run, limits: Limits, *, new_table: bool, as_login: bool
) -> tuple[str, ...]:
    return (
        # Whatever the database's default: the guard must see what was committed while this waited for the lock.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL search_path TO {search_path(tenant.schema)}",
        f"SET LOCAL lock_timeout TO {int(limits.lock_timeout * 1000)}",
        f"SET LOCAL statement_timeout TO {int(limits.statement_timeout * 1000)}",
        "SET LOCAL client_min_messages TO warning",
        lock_schema(tenant),
        *([] if as_login else [act_as_maker(tenant)]),
        *migration_body(tenant, *step, run, new_table=new_table),
        *([give_to_owner(tenant.schema)] if as_login else []),
        "COMMIT",
    )


def migration_body(
    tenant: Tenant, migration: Migration, direction: Direction, run: Run, *, new_table: bool = True
) -> list[str]:
    """Return the statements of a migration between its lock and its commit, for a transaction that is scoped already."""
    return [
        *([create_version_table(tenant, migration)] if new_table else []),
        _guard(tenant, migration, direction),
        *migration.content.statements(direction),
        record_done(tenant, migration, direction, run),
    ]


def lock_schema(tenant: Tenant, *, session: bool = False) -> str:
    """Return the statement that locks out other runners, and the removal and renaming of the schema.

    goose takes one key for the whole database, so that tenants wait for each other.
    """
    function = "pg_advisory_lock" if session else "pg_advisory_xact_lock"
    return f"SELECT {function}(hashtextextended('erpkit.migrate.{check_quotable(tenant.schema)}', 0))"


def check_schema(tenant: Tenant) -> str:
    """Return the statement that fails unless the tenant's schema is the present one; it may be dropped before the lock is got."""
    schema = check_quotable(tenant.schema)
    return (  # asks the catalog, as current_schema() may answer from before the lock
        f"SELECT {_fails(NO_SCHEMA)} WHERE current_schema() IS DISTINCT FROM '{schema}' "  # noqa: S608 - checked
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


def is_done(tenant: Tenant, migration: Migration, direction: Direction) -> str:
    """Return the expression that is true if another runner has done the migration already."""
    table = sql.Identifier(tenant.schema, migration.version_table).as_string()
    applied = f"(SELECT is_applied FROM {table} WHERE version_id = {migration.version} ORDER BY id DESC LIMIT 1)"  # noqa: S608
    return applied if direction == "up" else f"NOT coalesce({applied}, false)"


def _guard(tenant: Tenant, migration: Migration, direction: Direction) -> str:
    """Return the statement that fails where the migration is done already, and otherwise notes the start.

    Looking up the version table after taking the lock shows that the schema still exists under its name; current_schema() may
    answer from before the lock.
    """
    schema, done = check_quotable(tenant.schema), is_done(tenant, migration, direction)
    return (
        f"SELECT CASE WHEN current_schema() IS DISTINCT FROM '{schema}' THEN {_fails(NO_SCHEMA)}::text "  # noqa: S608 - checked
        f"WHEN {done} THEN {_fails(NOT_DUE)}::text ELSE {note_start()} END"
    )


def _fails(why: str) -> str:
    """Return an expression that ends the message with an error that says why: a text that is no number.

    It is not a constant, or PostgreSQL would work it out for every tenant.
    """
    return f"('{why} ' || pg_backend_pid())::int"


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
                raise MigrationError(f"{where} copies from or to a client, and there is none: write INSERT instead")
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
