"""What erpkit doctor finds in any database, and that what it says to paste works when it is pasted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import erpkit
from erpkit.database import Database
from erpkit.database.rights import find_excess
from erpkit.sample.demo import Planted
from erpkit.tenants import Diagnosis, examine, find_tenants
from tests.command import erpkit as run
from tests.command import refused
from tests.conftest import count_queries
from tests.database.test_pool import bouncer

__all__ = ["bouncer"]

ROOT = Path(__file__).parent.parent.parent
ODD = ("Nord-1", "o'hara", 'say "hi"', "$HOME `id` \\ !!", "süd, west", "select")


def make(
    database: Database,
    schemas: Sequence[str],
    tables: str = "CREATE TABLE orders (id int); CREATE TABLE invoices (id int)",
) -> None:
    """Make schemas with the same tables."""
    with database.connection() as connection:
        for schema in schemas:
            connection.execute(sql.SQL("CREATE SCHEMA {0}; SET search_path TO {0}").format(sql.Identifier(schema)))
            connection.execute(tables.encode())


def run_sql(database: Database, *statements: str) -> None:
    with database.connection() as connection:
        for statement in statements:
            connection.execute(statement.encode())


def register(database: Database, schemas: Sequence[str], table: str = "public.customers") -> None:
    """List schemas in a table as django-tenants does, in a row each."""
    with database.connection() as connection:
        connection.execute(
            f"CREATE TABLE {table} (id serial PRIMARY KEY, schema_name varchar(63) UNIQUE, name varchar(100))".encode()
        )
        for schema in schemas:
            connection.execute(
                f"INSERT INTO {table} (schema_name, name) VALUES (%s, %s)".encode(), [schema, schema.upper()]
            )


def look(database: Database, query: str | None = None) -> Diagnosis:
    with erpkit.open(database.conninfo, tenants_query=query) as erp:
        return erp.doctor()


def listed(database: Database, found: Diagnosis) -> list[tuple[str, str, str]]:
    """Return the tenants that the query lists after a shell has read the line that is to be pasted."""
    (line,) = [command for command in found.commands if "TENANTS_QUERY" in command]
    shell = subprocess.run(
        ["bash", "-c", f'{line}\nprintf %s "$ERPKIT_TENANTS_QUERY"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout == found.query
    with database.connection() as connection:
        return [(one.schema, one.name, one.status) for one in find_tenants(connection, (), shell.stdout)]


def test_a_table_that_lists_the_schemas_becomes_the_query_whatever_their_names_are(database: Database) -> None:
    make(database, ODD)
    register(database, ["public", *ODD], 'public."Our Customers"')
    found = look(database)
    assert found.facts["listed in"] == 'public."Our Customers".schema_name, 6 of 6'
    assert sorted(listed(database, found)) == sorted((name, name.upper(), "active") for name in ODD)
    assert found.commands[-1] == "erpkit run inspect_tenants"
    assert [one.kind for one in found.findings] == ["no state"]


def test_a_library_is_known_by_its_tables(database: Database) -> None:
    make(database, ["a", "b"])
    register(database, ["a", "b"])
    run_sql(database, "CREATE TABLE domains (id int, domain text, is_primary bool, tenant_id int)")
    assert "(django-tenants)" in look(database).facts["listed in"]


@pytest.mark.parametrize(
    ("column", "values", "statuses"),
    [
        ("is_active bool", ["true", "false"], ["active", "inactive"]),
        ("status text", ["'Active'", "'closed'"], ["active", "closed"]),
        ("status text", ["'trial'", "'paid'"], ["active", "active"]),  # words of the ERP's own say nothing to erpkit
    ],
)
def test_the_table_tells_who_is_active(database: Database, column: str, values: list[str], statuses: list[str]) -> None:
    make(database, ["a", "b"])
    register(database, ["a", "b"])
    run_sql(database, f"ALTER TABLE customers ADD {column}")
    for schema, value in zip("ab", values, strict=True):
        run_sql(database, f"UPDATE customers SET {column.split(' ')[0]} = {value} WHERE schema_name = '{schema}'")
    assert [status for _, _, status in listed(database, look(database))] == statuses


def test_a_number_behind_a_prefix_lists_them_and_a_key_of_another_table_does_not(database: Database) -> None:
    schemas = [f"client_{n}" for n in range(1, 7)]
    make(database, schemas)
    run_sql(
        database,
        "CREATE TABLE countries (id int PRIMARY KEY, name text)",
        "INSERT INTO countries SELECT n, 'c' || n FROM generate_series(1, 9) n",
        "CREATE TABLE companies (id int PRIMARY KEY, title text)",
        "INSERT INTO companies SELECT n, 'C' || n FROM generate_series(1, 6) n",
    )
    found = look(database)
    assert found.facts["listed in"] == "public.companies.id behind client_, 6 of 6"
    assert listed(database, found)[0] == ("client_1", "C1", "active")
    run_sql(database, "DROP TABLE companies")
    assert look(database).listing is None


def test_a_column_that_names_a_tenant_in_several_rows_lists_each_once_and_no_blank(database: Database) -> None:
    make(database, ["a", "b"])
    run_sql(
        database,
        "CREATE TABLE hosts (host text, tenant text)",
        "INSERT INTO hosts VALUES ('x', 'a'), ('y', 'a'), ('z', 'b'), ('w', NULL)",
    )
    assert [schema for schema, _, _ in listed(database, look(database))] == ["a", "b"]


@pytest.mark.parametrize(
    ("schemas", "clause"),
    [
        (["t_1", "t_2"], "starts_with(nspname::text, 't_')"),
        (ODD, "tablename = 'invoices'"),
    ],
)
def test_without_a_table_the_catalog_lists_them(database: Database, schemas: Sequence[str], clause: str) -> None:
    make(database, schemas)
    make(database, ["other"], "CREATE TABLE orders (id int); CREATE TABLE a (); CREATE TABLE b (); CREATE TABLE c ()")
    found = look(database)
    assert clause in found.query
    assert found.facts["listed in"] == "no table that this login may read"
    assert sorted(schema for schema, _, _ in listed(database, found)) == sorted(schemas)


def test_where_nothing_else_tells_them_apart_the_query_names_them_whatever_their_names_are(database: Database) -> None:
    for number, schema in enumerate(ODD[:4]):  # any two have two tables of four in common, and no table is everywhere
        make(database, [schema], "; ".join(f"CREATE TABLE t{n} ()" for n in range(4) if n != number))
    found = look(database)
    assert "nspname IN (" in found.query
    assert sorted(schema for schema, _, _ in listed(database, found)) == sorted(ODD[:4])


def test_schemas_that_differ_a_little_are_of_the_family_and_others_are_not(database: Database) -> None:
    tables = "; ".join(f"CREATE TABLE t{n} (id int)" for n in range(6))
    make(database, ["a", "b", "c"], tables)
    make(database, ["late"], tables.rpartition(";")[0])
    make(database, ["x", "y"], "CREATE TABLE birds (); CREATE TABLE nests ()")
    make(database, ["reports"], "CREATE TABLE figures ()")
    found = look(database)
    assert found.family is not None
    assert (found.family.names, found.family.different) == (("a", "b", "c", "late"), ("late",))
    assert "2 other schemas are alike: x, y" in [str(one) for one in found.findings]


def test_who_is_not_listed_and_who_is_listed_without_the_tables_is_told(database: Database) -> None:
    make(database, ["a", "b", "backup_of_a"])
    make(database, ["fresh"], "CREATE TABLE nothing_yet ()")
    register(database, ["a", "b", "fresh"])
    told = {one.subject: one.problem for one in look(database).findings if one.subject}
    assert told == {
        "backup_of_a": "it has the tenants' tables, and is not in public.customers",
        "fresh": "it is in public.customers, and does not have most of the tenants' tables",
    }


def test_a_query_that_is_set_is_checked_and_one_that_fails_is_told(database: Database) -> None:
    make(database, ["a", "b", "c"])
    found = look(
        database, "SELECT nspname AS slug, nspname AS schema_name FROM pg_namespace WHERE nspname IN ('a', 'b')"
    )
    assert (found.facts["tenants"], found.commands) == ("2 by ERPKIT_TENANTS_QUERY", ("erpkit run inspect_tenants",))
    assert [one.subject for one in found.findings if one.kind == "not listed"] == ["c"]
    broken = look(database, "SELECT nonsense")
    assert "ERPKIT_TENANTS_QUERY failed" in str(broken.findings[0])


def test_the_tool_the_shared_schema_and_the_extensions_are_named(database: Database) -> None:
    run_sql(database, "CREATE SCHEMA main; CREATE TABLE main.countries (id int PRIMARY KEY)")
    run_sql(database, "CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
    state = "CREATE TABLE alembic_version (version_num text)"
    make(database, ["a", "b"], f"CREATE TABLE orders (country int REFERENCES main.countries); {state}")
    found = look(database)
    assert found.facts["migrated by"] == "Alembic (alembic_version in 2 of 2 tenants)"
    assert found.facts["shared"] == "main (foreign keys of tenants lead there), ext (extensions)"
    assert {one.notebook: one.works for one in found.abilities}["run_migrations"] == "yes, to read"


def test_erpkits_own_database_and_an_empty_one_are_told_as_such(erp: Planted, database: Database) -> None:
    done = run("doctor", ERPKIT_DATABASE=database.conninfo)
    assert "4 of erpkit's own" in done.stdout
    assert "_template (" not in done.stdout  # no tenant, and nothing that they share
    assert "ERPKIT_TENANTS_QUERY" not in done.stdout
    assert done.returncode == 0, done.stdout


def test_in_an_empty_database_nothing_is_green(database: Database) -> None:
    done = run("doctor", ERPKIT_DATABASE=database.conninfo)
    assert done.returncode == 3
    assert "nothing that looks like tenants" in done.stderr
    assert done.stderr.rstrip().endswith("erpkit demo")


@pytest.fixture
def poor(database: Database) -> Iterator[str]:
    """Twenty tenants, of which a login may not use one schema and may not read a table of another."""
    make(database, [f"Kunde-{n:02}" for n in range(20)])
    run_sql(database, 'CREATE ROLE "Poor" LOGIN')
    with database.connection() as connection:
        for n in range(20):
            if n != 3:
                connection.execute(f'GRANT USAGE ON SCHEMA "Kunde-{n:02}" TO "Poor"'.encode())
            connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "Kunde-{n:02}" TO "Poor"'.encode())
        connection.execute('REVOKE SELECT ON "Kunde-07".orders FROM "Poor"')
        yield psycopg.conninfo.make_conninfo(database.conninfo, user="Poor")
        connection.execute('DROP OWNED BY "Poor"; DROP ROLE "Poor"')


def test_what_a_login_may_not_read_is_told_with_grants_that_work(database: Database, poor: str) -> None:
    with Database(poor, "poor") as theirs:
        found = look(theirs)
        assert found.facts["login"] == "Poor: it may only read; may read 18 of 20 tenants"
        assert {one.subject: one.problem for one in found.findings if one.kind == "not read"} == {
            "Kunde-03": "the login Poor may not read its schema",
            "Kunde-07": "the login Poor may not read 1 of its tables",
        }
        assert found.abilities[0].works == "yes, 18 of 20 tenants"
        assert found.summary.exit_code == 3
        run_sql(database, *found.grants)
        assert look(theirs).facts["login"] == "Poor: it may only read; may read 20 of 20 tenants"


def test_the_grants_include_the_tables_that_the_configured_query_asks(database: Database, poor: str) -> None:
    register(database, [f"Kunde-{n:02}" for n in range(20)])
    query = "SELECT schema_name AS slug, schema_name FROM customers"
    with Database(poor, "poor") as theirs:
        found = look(theirs, query)
        assert found.facts["tenants"] == "not known: ERPKIT_TENANTS_QUERY failed"
        assert (found.abilities[0].works, found.commands) == ("no: ERPKIT_TENANTS_QUERY fails", ("erpkit doctor",))
        assert 'GRANT SELECT ON "public"."customers" TO "Poor";' in [*found.grants]
        run_sql(database, *found.grants)
        assert look(theirs, query).facts["login"] == "Poor: it may only read; may read 20 of 20 tenants"
    assert 'GRANT SELECT ON "public"."customers" TO erp_reader;' in look(database, query).grants


def test_many_grants_are_one_block(database: Database, poor: str) -> None:
    run_sql(database, 'DROP OWNED BY "Poor"')
    make(database, ["$grant$ nonsense"])
    with Database(poor, "poor") as theirs:
        (block,) = look(theirs).grants
        run_sql(database, block)
        assert not look(theirs).unreadable


def test_the_login_that_is_proposed_reads_all_tenants_and_those_to_come_and_nothing_more(database: Database) -> None:
    make(database, ODD)
    register(database, [*ODD, "gone already"])
    found = look(database)
    try:
        run_sql(database, *found.grants)
        make(database, ["a later one"])
        with Database(psycopg.conninfo.make_conninfo(database.conninfo, user="erp_reader"), "reader") as reader:
            again = look(reader)
            assert again.facts["login"] == "erp_reader: it may only read; may read 7 of 7 tenants"
            assert again.query == found.query
            with reader.connection() as connection:
                assert find_excess(connection) == ("erp_reader", "")
    finally:
        run_sql(database, "DROP OWNED BY erp_reader; DROP ROLE erp_reader")


def test_a_table_that_cannot_be_read_is_told_and_hides_no_other(database: Database) -> None:
    make(database, ["a", "b"])
    register(database, ["a", "b"])
    run_sql(database, "CREATE TABLE slow (tenant text)")
    with database.connection() as locker, locker.transaction():
        locker.execute("LOCK TABLE slow")
        found = look(database)
    assert found.facts["listed in"].startswith("public.customers.schema_name")
    assert "public.slow could not be read" in str(found.findings[0])


def test_a_pooler_is_noticed(database: Database, bouncer: Database) -> None:
    make(database, ["a", "b"])
    assert look(database).login.pooler is False
    found = look(bouncer)
    assert "through a pooler" in found.facts["server"]
    assert "a pooler is in between" in str(found.findings)


def test_it_asks_as_often_for_a_thousand_schemas_as_for_two_and_writes_nothing(database: Database) -> None:
    def count() -> int:
        with database.connection() as connection:
            return count_queries(connection, lambda: examine(connection, "here"))

    make(database, ["t_1", "t_2"], "CREATE TABLE orders (id int)")
    register(database, [f"t_{n}" for n in range(1, 301)])
    few = count()
    make(database, [f"t_{n}" for n in range(3, 301)], "CREATE TABLE orders (id int)")
    assert count() == few < 20
    read_only = psycopg.conninfo.make_conninfo(database.conninfo, options="-c default_transaction_read_only=on")
    with Database(read_only, "read-only") as side:
        assert look(side).facts["listed in"].endswith("300 of 300")


def test_the_command_line_names_the_database_again_and_takes_no_password(database: Database) -> None:
    make(database, ["a", "b"])
    done = run("doctor", database.conninfo)
    assert done.returncode == 0
    assert "    export ERPKIT_DATABASE=" in done.stderr
    document = json.loads(run("doctor", database.conninfo, "--json").stdout)
    assert (document["tenants"], document["commands"][-1]) == (["a", "b"], "erpkit run inspect_tenants")
    refused(run("doctor", "postgresql://ann:geheim@localhost/erp"), 2, "password")
    assert "geheim" not in run("doctor", "postgresql://ann:geheim@localhost/erp").stderr


def test_it_shows_itself_in_a_notebook(database: Database) -> None:
    make(database, ["a", "<b>"])
    page = look(database)._repr_html_()
    assert "export ERPKIT_TENANTS_QUERY" in page
    assert "<b>" not in page


FLEETS = {
    "Django": (
        ("acme", "Kunde-19"),
        "CREATE TABLE shop_order (id int); CREATE TABLE django_migrations (id int, app text, name text, applied timestamptz)",
        "CREATE TABLE customers_client (id int, schema_name text UNIQUE, name text);"
        "CREATE TABLE customers_domain (id int, domain text, is_primary bool, tenant_id int);"
        "CREATE TABLE django_migrations (id int, app text, name text, applied timestamptz);"
        "INSERT INTO customers_client VALUES (1, 'public', 'us'), (2, 'acme', 'Acme'), (3, 'Kunde-19', 'Kunde')",
    ),
    "Rails": (
        ("acme", "kunde_19"),
        "CREATE TABLE orders (id int); CREATE TABLE schema_migrations (version varchar); CREATE TABLE ar_internal_metadata (key text)",
        "CREATE TABLE companies (id int, subdomain text, name text);"
        "INSERT INTO companies VALUES (1, 'acme', 'A'), (2, 'kunde_19', 'K');"
        "CREATE TABLE orders (id int); CREATE TABLE schema_migrations (version varchar); CREATE TABLE ar_internal_metadata (key text)",
    ),
    "Alembic": (
        ("firm-1", "firm-19"),
        "CREATE TABLE orders (id int); CREATE TABLE alembic_version (version_num text)",
        "SELECT 1",
    ),
    "goose": (
        ("tenant_1", "tenant_19"),
        "CREATE TABLE orders (id int); CREATE TABLE goose_db_version (id int, version_id bigint, is_applied bool, tstamp timestamp)",
        "CREATE TABLE tenants (id int, name text); INSERT INTO tenants VALUES (1, 'A'), (19, 'B')",
    ),
}


@pytest.mark.parametrize("tool", FLEETS)
def test_the_readme_shows_the_line_that_the_doctor_writes(database: Database, tool: str) -> None:
    schemas, tables, outside = FLEETS[tool]
    make(database, schemas, tables)
    run_sql(database, "RESET search_path", outside)
    found = look(database)
    (export,) = [command for command in found.commands if "TENANTS_QUERY" in command]
    assert export in (ROOT / "README.md").read_text()
    assert sorted(schema for schema, _, _ in listed(database, found)) == sorted(schemas)
    assert found.facts["migrated by"].startswith(tool)
