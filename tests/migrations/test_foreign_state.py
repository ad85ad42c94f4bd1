"""Whose migrations another tool keeps: who is behind whom, what is dirty, and what was not understood."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

import erpkit
from erpkit.database import Database, Tenant
from erpkit.errors import UsageError
from erpkit.finding import group_findings
from erpkit.migrations import FleetStatus, read_applied
from erpkit.migrations.history import Run, ensure_history, record
from erpkit.migrations.state_tables import STATE_TABLES
from tests.command import erpkit as run
from tests.command import refused
from tests.migrations.fleet import migration
from tests.situations import FOREIGN_QUERY

SCHEMAS = ("Nord-1", "ost", "west")  # the first has everything, the second lacks the newest, the third is mostly ill


@dataclass(frozen=True)
class Theirs:
    """A state table as its tool makes it, its rows in each of the schemas, and what is told of the second and third one."""

    table: str
    rows: tuple[str, str, str]
    behind: str
    ill: str


DJANGO = "django_migrations (id bigint PRIMARY KEY, app varchar(255), name varchar(255), applied timestamptz)"
GOLANG = "schema_migrations (version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL)"
RAILS = "schema_migrations (version character varying NOT NULL PRIMARY KEY)"
ALEMBIC = "alembic_version (version_num varchar(32) NOT NULL PRIMARY KEY)"
GOOSE = "goose_db_version (id int PRIMARY KEY, version_id bigint, is_applied bool, tstamp timestamp DEFAULT now())"
FLYWAY = (
    "flyway_schema_history (installed_rank int PRIMARY KEY, version varchar(50), description varchar(200), type varchar(20), "
    "script varchar(1000), checksum int, installed_by varchar(100), installed_on timestamp, execution_time int, success bool)"
)
PRISMA = (
    "_prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64), finished_at timestamptz, migration_name varchar(255), "
    "logs text, rolled_back_at timestamptz, started_at timestamptz DEFAULT clock_timestamp(), applied_steps_count int DEFAULT 0)"
)
LIQUIBASE = (
    "databasechangelog (id varchar(255), author varchar(255), filename varchar(255), dateexecuted timestamp DEFAULT now(), "
    "orderexecuted int, exectype varchar(10), md5sum varchar(35))"
)
ATLAS = (
    "atlas_schema_revisions (version varchar PRIMARY KEY, description varchar, type bigint DEFAULT 2, applied bigint, total bigint, "
    "executed_at timestamptz DEFAULT now(), execution_time bigint DEFAULT 0, error text, hash varchar DEFAULT '')"
)
TOOLS = {
    "Django": Theirs(
        DJANGO,
        (
            "(1, 'shop', '0001_initial', now()), (2, 'shop', '0002_vat', now())",
            "(1, 'shop', '0001_initial', now())",
            "(2, 'shop', '0001_initial', now()), (9, 'shop', '0002_old', now())",  # the same number of rows, another one
        ),
        "Django: lacks shop.0002_vat, which Nord-1 has", "Django: has shop.0002_old, which Nord-1 lacks",
    ),
    "Alembic": Theirs(
        ALEMBIC, ("('9b1c0ffee')", "('3f2a')", "('9b1c0ffee')"),
        "Alembic: is at 3f2a, most (2 of 3) at 9b1c0ffee", "",
    ),
    "Rails": Theirs(
        RAILS, ("('20240101000000'), ('20240201000000')", "('20240101000000')", "('20240201000000')"),
        "Rails: lacks 20240201000000, which Nord-1 has", "Rails: lacks 20240101000000, which Nord-1 has",
    ),
    "golang-migrate": Theirs(
        GOLANG, ("(12, false)", "(9, false)", "(12, true)"),
        "golang-migrate: is at 9, Nord-1 at 12", "golang-migrate: 12 stopped half way (schema_migrations says so)",
    ),
    "goose": Theirs(
        GOOSE,
        ("(1, 0, true), (2, 1, true), (3, 2, true)", "(1, 0, true), (2, 1, true)", "(1, 1, true), (2, 2, true), (3, 2, false)"),
        "goose: lacks 2, which Nord-1 has", "goose: lacks 2, which Nord-1 has",  # older gooses kept a row for a Down
    ),
    "Flyway": Theirs(
        FLYWAY,
        tuple(
            f"(1, '1.9', 'a', 'SQL', 'V1_9__a.sql', 1, 'x', now(), 1, true){more}"
            for more in (
                ", (2, '1.10', 'b', 'SQL', 'V1_10__b.sql', 1, 'x', now(), 1, true)", "",
                ", (2, '1.10', 'b', 'SQL', 'V1_10__b.sql', 1, 'x', now(), 1, false)",
            )
        ),  # type: ignore[arg-type]
        "Flyway: lacks 1.10, which Nord-1 has", "Flyway: 1.10 stopped half way (flyway_schema_history says so)",
    ),
    "Prisma": Theirs(
        PRISMA,
        (
            "('a', '', now(), '01_init', '', NULL), ('b', '', NULL, '02_vat', '', now()), ('c', '', now(), '02_vat', '', NULL)",
            "('a', '', now(), '01_init', '', NULL)",
            "('a', '', now(), '01_init', '', NULL), ('b', '', NULL, '02_vat', '', NULL)",
        ),
        "Prisma: lacks 02_vat, which Nord-1 has", "Prisma: 02_vat stopped half way (_prisma_migrations says so)",
    ),
    "Liquibase": Theirs(
        LIQUIBASE,
        (
            "('1', 'ann', 'a.xml', now(), 1, 'EXECUTED'), ('2', 'ann', 'a.xml', now(), 2, 'EXECUTED')",
            "('1', 'ann', 'a.xml', now(), 1, 'EXECUTED')",
            "('1', 'ann', 'a.xml', now(), 1, 'EXECUTED'), ('2', 'ann', 'a.xml', now(), 2, 'MARK_RAN')",
        ),
        "Liquibase: lacks a.xml::2::ann, which Nord-1 has", "",
    ),
    "Atlas": Theirs(
        ATLAS,
        (
            "('.atlas_cloud_identifier', '', 2, 0, 0), ('1', '', 2, 3, 3), ('2', '', 2, 1, 1)",
            "('1', '', 2, 3, 3)",
            "('1', '', 2, 3, 3), ('2', '', 2, 1, 4)",
        ),
        "Atlas: lacks 2, which Nord-1 has", "Atlas: 2 stopped half way (atlas_schema_revisions says so)",
    ),
    "Knex": Theirs(
        "knex_migrations (id int, name text, batch int, migration_time timestamptz)",
        ("(1, '01_a.js', 1), (2, '02_b.js', 2)", "(1, '01_a.js', 1)", "(1, '01_a.js', 1), (2, '02_b.js', 2)"),
        "Knex: lacks 02_b.js, which Nord-1 has", "",
    ),
    "TypeORM": Theirs(
        'migrations (id int, "timestamp" bigint, name text)',
        ("(1, 1, 'Init1'), (2, 2, 'Vat2')", "(1, 1, 'Init1')", "(1, 1, 'Init1'), (2, 2, 'Vat2')"),
        "TypeORM: lacks Vat2, which Nord-1 has", "",
    ),
    "Laravel": Theirs(
        "migrations (id int, migration text, batch int)",
        ("(1, '01_a', 1), (2, '02_b', 2)", "(1, '01_a', 1)", "(1, '01_a', 1), (2, '02_b', 2)"),
        "Laravel: lacks 02_b, which Nord-1 has", "",
    ),
}  # fmt: skip


def make(database: Database, table: str, *rows: str, schemas: tuple[str, ...] = SCHEMAS) -> None:
    """Make a state table with its rows in each schema, which is made if it is not there."""
    with database.connection() as connection:
        connection.execute("SET client_min_messages TO warning")
        for schema, values in zip(schemas, rows, strict=True):
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
            connection.execute(f"CREATE TABLE {table}".encode())
            if values:
                connection.execute(f"INSERT INTO {table.partition(' ')[0]} VALUES {values}".encode())


def status(database: Database, against: str = "", *names: str, **settings: Any) -> FleetStatus:
    options = settings.pop("conninfo", database.conninfo)
    found = erpkit.Settings(database=options, tenants_query=FOREIGN_QUERY, **settings)
    with erpkit.open(settings=found) as erp:
        return erp.migrations.status(names, against=against)


def said(found: FleetStatus, tenant: str) -> list[str]:
    return [one.problem for one in found.findings if one.subject == tenant]


@pytest.mark.parametrize("tool", TOOLS)
def test_it_is_told_who_is_behind_whom_and_what_stopped_half_way(database: Database, tool: str) -> None:
    theirs = TOOLS[tool]
    make(database, theirs.table, *theirs.rows)
    found = status(database)
    assert said(found, "Nord-1") == []
    assert said(found, "ost") == [theirs.behind]
    assert (theirs.ill in said(found, "west")) if theirs.ill else said(found, "west") == []
    assert found.foreign.tables == (theirs.table.partition(" ")[0],)
    assert set(found.behind) >= {"ost"}
    assert {finding.severity for finding in found.findings if "half way" in finding.problem} <= {"error"}


def test_the_command_of_a_tool_never_migrates_another_schema_when_it_is_pasted() -> None:
    for kind in STATE_TABLES:
        for text in filter(None, (kind.command, kind.mend)):
            command = text.partition("  # ")[0]
            assert "{schema}" in command, kind.tool
            assert "=" in command or command.startswith(("run ", "mend ")), kind.tool
            assert "`" not in command, kind.tool


def test_a_fleet_in_which_all_have_the_same_is_green_without_a_module(database: Database) -> None:
    make(database, GOLANG, *["(7, false)"] * 3)
    found = status(database)
    assert (list(found.findings), found.facts["current"]) == ([], 3)
    assert found.table.frame["schema_migrations"].tolist() == ["7", "7", "7"]


def test_they_are_compared_with_the_newest_the_majority_or_a_tenant(database: Database) -> None:
    make(database, GOLANG, "(9, false)", "(9, false)", "(12, false)")
    assert said(status(database), "ost") == ["golang-migrate: is at 9, west at 12"]
    majority = status(database, "majority")
    assert said(majority, "ost") == []
    assert said(majority, "west") == ["golang-migrate: is at 12, most (2 of 3) at 9, which is further"]
    assert said(status(database, "ost"), "west") == ["golang-migrate: is at 12, ost at 9, which is further"]
    with pytest.raises(UsageError, match="no tenant 'nobody'"):
        status(database, "nobody")


def test_one_tenant_that_is_named_is_compared_with_all_of_them(database: Database) -> None:
    make(database, RAILS, *TOOLS["Rails"].rows)
    assert said(status(database, "", "ost"), "ost") == [TOOLS["Rails"].behind]


def test_the_template_is_the_measure_where_it_has_the_table(database: Database) -> None:
    make(database, RAILS, "('1')", "('1'), ('2')", schemas=("_template", "acme"))
    query = "SELECT 'acme' AS slug, 'acme' AS schema_name"
    with erpkit.open(database.conninfo, tenants_query=query) as erp:
        findings = erp.migrations.status().findings
    assert [str(one) for one in findings] == ["acme: Rails: has 2, which _template lacks"]


def test_like_findings_of_many_tenants_are_one_cause(database: Database) -> None:
    make(database, RAILS, "('1'), ('2')", "('1')", "('1')")
    (cause,) = group_findings(status(database).findings)
    assert str(cause) == "2 tenants: Rails: lacks 2, which Nord-1 has (ost, west)"


def test_an_empty_table_and_one_that_is_not_there_are_told(database: Database) -> None:
    make(database, RAILS, "('1')", "", schemas=("Nord-1", "ost"))
    with database.connection() as connection:
        connection.execute("CREATE SCHEMA west")
    found = status(database)
    assert said(found, "ost") == ["Rails: schema_migrations is empty: no migration is recorded"]
    assert said(found, "west") == ["Rails: has no schema_migrations, which Nord-1 has"]
    assert [row["schema_migrations"] for row in found.table.records()] == ["1", "none (lacks 1)", "no table"]


def test_a_row_that_is_not_understood_is_told_and_hides_nothing_else(database: Database) -> None:
    make(database, RAILS, "('1'), ('2')", "('1'), ('what?')", "('1'), ('2')")
    assert said(status(database), "ost") == [
        "Rails: schema_migrations has rows that are not understood: what?",
        "Rails: lacks 2, which Nord-1 has",
    ]


def test_a_huge_table_is_not_read_as_a_whole_and_is_not_green(database: Database) -> None:
    make(database, RAILS, *["('1')"] * 3)
    with database.connection() as connection:
        connection.execute("INSERT INTO ost.schema_migrations SELECT generate_series(2, 100001)")
    assert said(status(database), "ost") == ["Rails: schema_migrations has 100,000 rows or more: it was not compared"]


def test_a_table_of_no_tools_columns_is_told_with_the_setting_that_helps(database: Database) -> None:
    make(database, "schema_migrations (step text, at timestamptz)", "('a', now())", "('a', now())", "('a', now())")
    found = status(database)
    (cause,) = [one for one in group_findings(found.findings) if "columns" in one.problem]
    assert cause.remedy.startswith('export ERPKIT_MIGRATION_STATE="schema_migrations COLUMN ORDER"')
    found = status(database, migration_state=("schema_migrations step at",))
    assert (list(found.findings), found.foreign.states[0].text) == ([], "1 applied")


def test_a_table_of_the_erps_own_that_is_called_migrations_is_left_alone(database: Database) -> None:
    make(database, "migrations (bird text)", "('stork')", "('swift')", "('crane')")
    assert [one.kind for one in status(database).findings] == ["no migrations"]


def test_any_other_tool_is_read_by_a_few_words(database: Database) -> None:
    make(
        database,
        'changes ("Script" text, "On" timestamptz)',
        "('a', now()), ('b', now())",
        "('a', now())",
        "('a', now())",
    )
    found = status(database, migration_state=("changes Script On",))
    assert said(found, "ost") == ["changes: lacks b, which Nord-1 has"]
    for words in ("changes", "a b c d", "a; b"):
        with pytest.raises(UsageError, match="ERPKIT_MIGRATION_STATE: .* is not understood"):
            status(database, migration_state=(words,))


@pytest.fixture
def poor(database: Database) -> Iterator[str]:
    """A login that may read the tenants but for one schema and one table, and write nothing."""
    make(database, RAILS, *["('1')"] * 3)
    with database.connection() as connection:
        connection.execute(
            'CREATE ROLE poor LOGIN; GRANT USAGE ON SCHEMA "Nord-1", west TO poor;'
            'GRANT SELECT ON ALL TABLES IN SCHEMA "Nord-1" TO poor'
        )
        yield psycopg.conninfo.make_conninfo(database.conninfo, user="poor")
        connection.execute("DROP OWNED BY poor; DROP ROLE poor")


def test_what_the_login_may_not_read_is_told_and_hides_no_other(database: Database, poor: str) -> None:
    found = status(database, conninfo=poor)
    assert said(found, "Nord-1") == []
    assert said(found, "ost") == ['Rails: permission denied for schema ost: GRANT USAGE ON SCHEMA "ost" TO "poor"']
    assert said(found, "west")[0].startswith("Rails: permission denied for table schema_migrations")


def test_a_table_that_only_an_unread_tenant_has_is_told_with_that_tenants_name(database: Database, poor: str) -> None:
    with database.connection() as connection:
        connection.execute('DROP TABLE "Nord-1".schema_migrations, ost.schema_migrations')
    assert said(status(database, conninfo=poor), "Nord-1") == ["Rails: has no schema_migrations, which west has"]


def test_a_tenant_to_compare_with_that_was_not_read_is_told(database: Database, poor: str) -> None:
    told = "schema_migrations was not read, and so the others are not compared with it"
    assert told in said(status(database, "west", conninfo=poor), "west")
    assert told not in said(status(database, "Nord-1", conninfo=poor), "Nord-1")


def test_a_declared_table_that_no_tenant_has_is_told(database: Database) -> None:
    make(database, RAILS, *["('1')"] * 3)
    found = status(database, migration_state=("schema_change script at",))
    assert said(found, "") == ["no tenant has the table schema_change, which ERPKIT_MIGRATION_STATE names"]


def test_the_command_line_tells_it_as_a_table_and_as_json(database: Database) -> None:
    make(database, GOLANG, *TOOLS["golang-migrate"].rows)
    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_TENANTS_QUERY": FOREIGN_QUERY}
    done = run("migrate", "status", **environ)
    assert done.returncode == 3
    assert "9 (behind)" in done.stdout
    assert "force VERSION" in done.stderr
    document = json.loads(run("migrate", "status", "--json", **environ).stdout)
    assert [(one["tenant"], one["version"], one["state"]) for one in document] == [
        ("Nord-1", "12", "current"), ("ost", "9", "pending"), ("west", "12", "dirty"),
    ]  # fmt: skip


def test_an_inspection_tells_it_of_all_tenants_and_of_one(database: Database) -> None:
    make(database, DJANGO, *TOOLS["Django"].rows)
    with erpkit.open(database.conninfo, tenants_query=FOREIGN_QUERY) as erp:
        fleet = erp.tenants.inspect()
        assert [row["django_migrations"] for row in fleet.migrations.records()] == [
            "2 applied", "1 applied (lacks 1)", "2 applied (lacks 1, 1 more)",
        ]  # fmt: skip
        assert TOOLS["Django"].behind in [one.problem for one in fleet.findings]
        detail = erp.tenants["ost"].inspect()
    assert TOOLS["Django"].behind in [one.problem for one in detail.findings]
    assert "django_migrations 1 applied (lacks 1)" in detail.notes[0]


def test_tenants_of_a_table_that_is_not_erpkits_are_asked_for_by_the_query(database: Database) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE public.tenants (id int, subdomain text)")
    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    for command in (("tenants", "list"), ("tenants", "inspect"), ("tenants", "create", "acme")):
        refused(run(*command, **environ), 2, "public.tenants is not erpkit's", "ERPKIT_TENANTS_QUERY", "erpkit doctor")


def test_what_stopped_half_way_in_a_module_is_told_when_no_module_has_migrations_any_more(database: Database) -> None:
    tenant, gone = Tenant("acme", "acme"), migration(3, "SELECT 1;")
    with database.connection() as connection:
        connection.execute("CREATE SCHEMA acme")
        ensure_history(connection)
        record(connection, tenant, gone, "up", Run("migrate-1"), "stopped", error="it broke")
        status = FleetStatus("here", (tenant,), (), read_applied(connection, [tenant]))
    assert "acme: stock 3 stopped half way" in [str(one) for one in status.findings if one.severity == "error"]
