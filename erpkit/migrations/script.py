"""The SQL text that applies one migration to one tenant: pure functions from a migration to a message."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from uuid import uuid4

from psycopg import sql

from erpkit.database import DISCARD, Tenant, act_as_maker, check_quotable, give_to_owner, search_path
from erpkit.errors import MigrationError
from erpkit.migrations import golang
from erpkit.migrations.files import Migration, Step
from erpkit.migrations.history import SCOPE, Run, note_start, record_done
from erpkit.migrations.parser import Direction
from erpkit.migrations.place import Part
from erpkit.migrations.tokens import end_of_comment, split_statements

NOT_DUE = "erpkit: not due"
LOCKED = "erpkit: locked"
LEFT = "erpkit: left the schema with"
SEPARATOR = "\n;\n"
NO_SCHEMA = "erpkit: no schema"

# Quoted text and comments, as PostgreSQL's scanner sees them (manual, "Lexical Structure"); an open one runs to the end.
_QUOTED = r"""
      (?P<comment> --[^\n]* )
    | (?P<escaped> (?<![\w$]) [eE]' (?: [^'\\] | '' | \\. )* (?P<e>') )
    | (?P<string> ' (?: [^'] | '' )* (?P<s>'|\Z) )
    | (?P<name> " (?: [^"] | "" )* (?P<n>"|\Z) )
    | (?P<dollar> (?<![\w$]) \$ (?P<tag> (?:[A-Za-z_\x80-\uffff][\w]*)? ) \$ .*? (?P<d> \$ (?P=tag) \$ | \Z ) )
    | (?P<block> /\* )
    """
_ENDS_TRANSACTION = re.compile(
    r"(begin|commit|rollback|abort|end|start\s+transaction|prepare\s+transaction)\b(?!\s+to\b)", re.I
)
# What commits in its midst, or cannot run in a transaction, if it is all that is sent.
_COMMITS = re.compile(
    r"(call|do|vacuum|reindex|cluster|alter\s+system|(create|drop|alter)\s+(database|tablespace|subscription))\b|.*\bconcurrently\b",
    re.I | re.DOTALL,
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
    shared: tuple[str, ...] = (),
) -> bytes:
    """Return whole transactions, one a migration, to be sent in one round trip.

    Each is scope, lock, guard, the statements and the records; `new_tables` are made where they are first needed. After the
    last step of a tenant the session is made as new, so that the next tenant may have it. The `shared` schemas follow the
    tenant's on the search_path. It acts as the schema's owner, where
    that is the operators' role, or `as_login`, and gives what it made to that owner. PostgreSQL leaves out the rest of a
    message after an error, so that only a ROLLBACK is needed then: what was committed before stays.
    """
    message = _message(_any(tenant), tuple(steps), run, limits, frozenset(new_tables), is_last, as_login, shared)
    return _of(tenant, message).encode()


def message_parts(
    tenant: Tenant,
    steps: Sequence[Step],
    run: Run,
    limits: Limits,
    *,
    new_tables: Collection[str] = (),
    is_last: bool = False,
    as_login: bool = False,
    shared: tuple[str, ...] = (),
) -> list[Part]:
    """Return the parts that `migration_message` joins by SEPARATOR, to find out which of them an error is about."""
    parts = _parts(_any(tenant), tuple(steps), run, limits, frozenset(new_tables), is_last, as_login, shared)
    return [replace(part, text=_of(tenant, part.text)) for part in parts]


def _of(tenant: Tenant, text: str) -> str:
    slug = sql.Literal(tenant.slug).as_string()
    return text.replace(_ANY.schema, check_quotable(tenant.schema)).replace(f"'{_ANY.slug}'", slug)


def _any(tenant: Tenant) -> Tenant:
    return replace(_ANY, owner=tenant.owner)


# Stands for any tenant: a message is made once, and then only the names are filled in. No file holds these by chance.
_ANY = Tenant(slug=f"slug_{uuid4().hex}", schema=f"schema_{uuid4().hex}")


@lru_cache(maxsize=32)
def _message(*how: Any) -> str:
    return SEPARATOR.join(part.text for part in _parts(*how))


def _parts(
    tenant: Tenant,
    steps: tuple[Step, ...],
    run: Run,
    limits: Limits,
    new_tables: frozenset[str],
    is_last: bool,
    as_login: bool,
    shared: tuple[str, ...],
) -> list[Part]:
    tables, parts = set(new_tables), list[Part]()
    for step in steps:
        table = step[0].version_table
        body = body_parts(tenant, step, run, new_table=table in tables)
        parts += [
            *map(Part, _entrance(limits, shared)),
            *([] if as_login else [Part(act_as_maker(tenant))]),
            *body,
            *([Part(give_to_owner(tenant.schema))] if as_login else []),
            Part("COMMIT"),
        ]
        tables.discard(table)
    return [*parts, *([Part(DISCARD)] if is_last else [])]


def _entrance(limits: Limits, shared: tuple[str, ...]) -> tuple[str, ...]:
    return (
        # Whatever the database's default: the guard must see what was committed while this waited for the lock.
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SET LOCAL search_path TO {search_path(_ANY.schema, shared)}",
        f"SET LOCAL lock_timeout TO {int(limits.lock_timeout * 1000)}",
        f"SET LOCAL statement_timeout TO {int(limits.statement_timeout * 1000)}",
        "SET LOCAL client_min_messages TO warning",
        lock_schema(_ANY),
    )


def body_parts(tenant: Tenant, step: Step, run: Run, *, new_table: bool = True) -> list[Part]:
    """Return a migration between its lock and its commit, for a transaction that is scoped already."""
    migration, direction = step
    return [
        *([Part(create_version_table(tenant, migration))] if new_table else []),
        Part(_guard(tenant, migration, direction)),
        *(Part(text, step, number) for number, text in enumerate(migration.content.statements(direction))),
        Part(check_scope(tenant)),
        Part(record_done(tenant, migration, direction, run)),
    ]


def lock_schema(tenant: Tenant) -> str:
    """Return the statement that locks out other runners, and the removal and renaming of the schema, or fails with LOCKED.

    It does not wait: CREATE INDEX CONCURRENTLY of whoever has the lock would wait for this transaction, and both for ever.
    goose takes one key for the whole database, so that tenants wait for each other.
    """
    return f"SELECT CASE WHEN pg_try_advisory_xact_lock({_key(tenant)}) THEN 0 ELSE {_fails(LOCKED)} END"


def try_lock(tenant: Tenant, *, session: bool = False) -> str:
    """Return the statement that takes the same lock, and answers whether it could, for this transaction or the session."""
    return f"SELECT pg_try_advisory_{'lock' if session else 'xact_lock'}({_key(tenant)})"


def _key(tenant: Tenant) -> str:
    return f"hashtextextended('erpkit.migrate.{check_quotable(tenant.schema)}', 0)"


def check_schema(tenant: Tenant) -> str:
    """Return the statement that fails unless the tenant's schema is the present one; it may be dropped before the lock is got."""
    schema = check_quotable(tenant.schema)
    return (  # asks the catalog, as current_schema() may answer from before the lock
        f"SELECT {_fails(NO_SCHEMA)} WHERE current_schema() IS DISTINCT FROM '{schema}' "  # noqa: S608 - checked
        f"OR NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{schema}')"
    )


def check_scope(tenant: Tenant) -> str:
    """Return the statement that fails with LEFT unless schema, search_path and role are as they were when the migration began.

    What a file makes after `SET search_path` lands elsewhere, and would be recorded as this tenant's.
    """
    return (
        f"SELECT CASE WHEN current_schema() = '{check_quotable(tenant.schema)}' "
        f"AND current_setting('erpkit.scope', true) = {SCOPE} THEN 0 ELSE ('{LEFT} ' || {SCOPE})::int END"
    )


def create_version_table(tenant: Tenant, migration: Migration) -> str:
    """Return the statements that make the version table, if it is missing; goose's has the row of version 0 in it."""
    if migration.golang is not None:
        return golang.create_table(tenant.schema, migration.version_table)
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
    directions: tuple[Direction, Direction] = ("up", "down")
    for direction in directions:
        lines = migration.content.lines(direction)
        for number, statement in enumerate(migration.content.statements(direction)):
            if problem := _problem(migration, statement):
                line = f" (line {lines[number]})" if number < len(lines) else ""
                raise MigrationError(f"{migration.file(direction)}: {direction} statement {number + 1}{line} {problem}")


def _problem(migration: Migration, statement: str) -> str:
    bare, is_open = _without_quotes(statement)
    if _COPIES.search(bare):
        return (
            "copies from or to a client, and there is none: psql reads the data of COPY … FROM stdin itself; write INSERT "
            "instead (pg_dump --inserts)"
        )
    if found := re.search(r"\\(\w+|\S)", bare):
        return f"holds {found[0]}, a command of psql, which PostgreSQL does not know: take it out"
    if is_open and migration.golang is not None:
        return "ends inside a quote or a comment; with multi_statement a file is cut at every ';', of strings and functions, too"
    if is_open:
        return (
            "ends inside a quote or a comment: goose splits at each line that ends in ';'; "
            "put it between '-- +goose StatementBegin' and StatementEnd"
        )
    if "\0" in statement:
        return "holds a zero byte: PostgreSQL would not see what follows it"
    if migration.content.use_transaction and (command := _transaction_command(bare)):
        return f"is {command.upper()}: a migration is one transaction; use '-- +goose NO TRANSACTION' instead"
    return ""


@lru_cache(maxsize=1024)
def is_atomic(migration: Migration, direction: Direction = "up") -> bool:
    """Tell whether PostgreSQL rolls back the whole of a migration if it fails.

    golang-migrate sends a file as it is: several statements are one transaction, unless there are commands for transactions among
    them (manual, "Multiple Statements in a Simple Query"), and one statement is one, unless it commits by itself.
    """
    statements = migration.content.statements(direction)
    if migration.content.use_transaction or migration.golang is None or len(statements) != 1:
        return migration.content.use_transaction
    bare, _ = _without_quotes(statements[0])
    if _transaction_command(bare):
        return False
    return len(split_statements(statements[0])) > 1 or not _COMMITS.match(bare.strip(" \t\r\n;"))


def start_lines(migration: Migration) -> list[int]:
    """Return the lines of the file on which its Up statements start; golang-migrate's file is sent as one."""
    if migration.golang is None or len(migration.content.up) != 1:
        return list(migration.content.up_lines)
    text = migration.content.up[0]
    return [1 + text.count("\n", 0, statement.start) for statement in split_statements(text)]


def _without_quotes(statement: str) -> tuple[str, bool]:
    """Return the statement without comments and quoted text, and whether a quote or a comment is still open at its end."""
    bare, position, is_open = list[str](), 0, False
    quoted = re.compile(_QUOTED, re.VERBOSE | re.DOTALL)
    while match := quoted.search(statement, position):
        bare += statement[position : match.start()], " " if match["comment"] or match["block"] else "''"
        end = end_of_comment(statement, match.end()) if match["block"] else match.end()
        is_open = is_open or end is None or any(match[mark] == "" for mark in ("e", "s", "n", "d"))
        position = len(statement) if end is None else end
    return "".join([*bare, statement[position:]]), is_open


def _transaction_command(bare: str) -> str | None:
    for part in _parts_of(bare):
        if found := _ENDS_TRANSACTION.match(part.strip()):
            return found[1]
    return None


def _parts_of(bare: str) -> list[str]:
    if re.search(r"\bbegin\s+atomic\b", bare, re.I):  # semicolons in the body of an SQL function end no statement
        return [" ".join(statement.words) for statement in split_statements(bare)]
    return bare.split(";")
