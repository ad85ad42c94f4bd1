"""The tables in which migration tools keep what was applied, one record a tool.

A table is known by its name and by the columns that it must have; what is read of it is said in SQL. The sources are the tools' own:
Django's MigrationRecorder, Alembic's MigrationContext, ActiveRecord's SchemaMigration, golang-migrate's pgx driver, goose's dialect for
PostgreSQL, and the manuals of Flyway, Prisma, Liquibase, Atlas, Knex, TypeORM and Laravel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import sql

from erpkit.errors import UsageError

__all__ = ["STATE_TABLES", "StateTable", "parse_state_table", "recognize"]

_DIGITS = "^[0-9]+$"


@dataclass(frozen=True)
class StateTable:
    """How one tool keeps its state: `columns` it must have, and SQL for a row's `name` and its place in the `order`.

    `rows` leaves out rows that are no migrations. A row counts where `applied` is true, and stopped half way where `dirty` is;
    of several with one name the last one counts. A `name` that does not match `pattern` is not understood. `is_one_row` says
    that the table holds nothing but the present version. Where names do not `sort`, more rows are further, and of single
    versions none is. `command` brings a tenant up, `mend` is for one that is dirty; where no whole command names the schema, each is a
    sentence, which does nothing when it is pasted: the bare command would migrate another schema.
    """

    tool: str
    table: str
    columns: frozenset[str]
    name: str
    order: str = "0"
    rows: str = "true"
    applied: str = "true"
    dirty: str = "false"
    pattern: str = "."
    is_one_row: bool = False
    sorts: bool = True
    command: str = ""
    mend: str = ""

    def matches(self, table: str, columns: Collection[str]) -> bool:
        """Whether a table of this name and these columns is this tool's."""
        return self.is_named(table) and self.columns <= set(columns)

    def is_named(self, table: str) -> bool:
        """Whether the name is this tool's, for which goose's may have an ending."""
        return table == self.table or (self.tool == "goose" and table.startswith(f"{self.table}_"))


STATE_TABLES = (
    StateTable(
        "Django", "django_migrations", frozenset({"id", "app", "name", "applied"}),
        name="app || '.' || name", order="id", sorts=False,
        command="python manage.py migrate_schemas --schema={schema}",
    ),
    StateTable(
        "Alembic", "alembic_version", frozenset({"version_num"}),
        name="version_num", is_one_row=True, sorts=False, pattern=r"^\S+$",
        command="run alembic upgrade head for the schema {schema}",
    ),
    StateTable(
        "golang-migrate", "schema_migrations", frozenset({"version", "dirty"}),
        name="version::text", order="version", dirty="dirty", pattern=_DIGITS, is_one_row=True,
        command="migrate -path … -database …search_path={schema} up",
        mend="migrate -path … -database …search_path={schema} force VERSION  # once it is fixed by hand",
    ),
    StateTable(
        "Rails", "schema_migrations", frozenset({"version"}),
        name="version::text", order="lpad(version::text, 30, '0')", pattern=_DIGITS,
        command="run rails db:migrate for the schema {schema}",
    ),
    StateTable(
        "goose", "goose_db_version", frozenset({"id", "version_id", "is_applied"}),
        name="version_id::text", order="id", rows="version_id > 0", applied="is_applied", pattern=_DIGITS,
        command='goose -table {table} postgres "$GOOSE_DBSTRING search_path={schema}" up',
    ),
    StateTable(
        "Flyway", "flyway_schema_history", frozenset({"installed_rank", "version", "type", "script", "success"}),
        name="coalesce(version, script)", order="installed_rank", rows="type <> 'SCHEMA'",
        applied="success AND type <> 'DELETE' AND type NOT LIKE 'UNDO%'", dirty="NOT success",
        command="flyway -schemas={schema} migrate", mend="flyway -schemas={schema} repair  # once it is fixed by hand",
    ),
    StateTable(
        "Prisma", "_prisma_migrations", frozenset({"migration_name", "started_at", "finished_at", "rolled_back_at"}),
        name="migration_name", order="started_at", applied="finished_at IS NOT NULL AND rolled_back_at IS NULL",
        dirty="finished_at IS NULL AND rolled_back_at IS NULL", command="run prisma migrate deploy with ?schema={schema}",
        mend="mend it by hand, then run prisma migrate resolve --rolled-back NAME with ?schema={schema}",
    ),
    StateTable(
        "Liquibase", "databasechangelog", frozenset({"id", "author", "filename", "orderexecuted", "exectype"}),
        name="filename || '::' || id || '::' || author", order="orderexecuted", applied="exectype <> 'FAILED'",
        dirty="exectype = 'FAILED'", sorts=False, command="liquibase update --default-schema-name={schema}",
    ),
    StateTable(
        "Atlas", "atlas_schema_revisions", frozenset({"version", "applied", "total", "executed_at"}),
        name="version", order="version", rows="NOT starts_with(version, '.')", applied="applied >= total",
        dirty="applied < total", command="run atlas migrate apply with search_path={schema}",
    ),
    StateTable(
        "Knex", "knex_migrations", frozenset({"id", "name", "batch"}), name="name", order="id",
        command="run knex migrate:latest with searchPath {schema}",
    ),
    StateTable(
        "TypeORM", "migrations", frozenset({"id", "timestamp", "name"}), name="name", order="timestamp", sorts=False,
        command="run typeorm migration:run with schema {schema}",
    ),
    StateTable(
        "Laravel", "migrations", frozenset({"id", "migration", "batch"}), name="migration", order="id",
        command="run php artisan migrate for the schema {schema}",
    ),
)  # fmt: skip


def parse_state_table(text: str) -> StateTable:
    """Read how another tool keeps its state from ERPKIT_MIGRATION_STATE: table, column and, where there is one, order.

    `schema_changes script applied_on`, say. Raises UsageError for anything else.
    """
    words = text.split()
    if len(words) not in (2, 3) or not all(re.fullmatch(r"[^\"'();]+", word) for word in words):
        raise UsageError(
            f"ERPKIT_MIGRATION_STATE: {text!r} is not understood: write the table, the column that names a migration and "
            "the column that orders them: schema_changes script applied_on"
        )
    table, column, *order = words
    name = sql.Identifier(column).as_string()
    return StateTable(
        tool=table,
        table=table,
        columns=frozenset({column, *order}),
        name=f"{name}::text",
        order=sql.Identifier(order[0]).as_string() if order else "0",
        sorts=False,
    )


def recognize(table: str, columns: Collection[str], more: Iterable[StateTable] = ()) -> StateTable | None:
    """Return whose state a table keeps; None where no tool's columns are in it."""
    return next((one for one in (*more, *STATE_TABLES) if one.matches(table, columns)), None)
