"""A database that erpkit did not make, with its tenants in a table of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import erpkit
from erpkit.config import Settings
from erpkit.database import Database
from erpkit.erp import Erp
from erpkit.errors import UsageError
from erpkit.tenants import across, find_drift, find_tenants, inspect_tenants
from erpkit.ui.explorer import explore
from tests.command import erpkit as _command

QUERY = "SELECT domain AS slug, schema_name, title AS name, on_trial IS NOT NULL AS status FROM public.customers"


@pytest.fixture
def foreign(database: Database) -> Database:
    """Two customers as django-tenants would keep them; the second lacks an index."""
    with database.connection() as connection:
        connection.execute("CREATE TABLE customers (domain text, schema_name text, title text, on_trial bool)")
        for schema in ("nord", "sued"):
            connection.execute(
                f"INSERT INTO customers VALUES ('{schema}.example.com', '{schema}', '{schema.title()} AG', false); "
                f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.invoices (id int PRIMARY KEY, total numeric); "
                f"CREATE INDEX by_total ON {schema}.invoices (total); INSERT INTO {schema}.invoices VALUES (1, 9.5)".encode()
            )
        connection.execute("DROP INDEX sued.by_total")
    return database


def test_its_tenants_are_listed_by_its_own_query(foreign: Database) -> None:
    with foreign.connection() as connection:
        tenants = find_tenants(connection, (), QUERY)
    assert [(t.slug, t.schema, t.name, t.role, t.is_active) for t in tenants] == [
        ("nord.example.com", "nord", "Nord AG", None, True), ("sued.example.com", "sued", "Sued AG", None, True),
    ]  # fmt: skip


def test_across_and_inspection_work_and_leave_no_table_behind(foreign: Database) -> None:
    tables = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^pg_|information' ORDER BY 1"
    with foreign.connection() as connection:
        before = connection.execute(tables).fetchall()
        tenants = find_tenants(connection, (), QUERY)
        frame = across(foreign, "SELECT sum(total) AS total FROM invoices", tenants=tenants).frame
        (nord, sued) = inspect_tenants(connection, tenants, [])
        assert connection.execute(tables).fetchall() == before
    assert list(frame["tenant"]) == ["nord.example.com", "sued.example.com"]
    assert (nord.rows, nord.problems) == ({"invoices": 1}, [])
    assert sued.size > 0


@pytest.fixture
def door(foreign: Database) -> Iterator[Erp]:
    with foreign.connection() as connection:
        connection.execute(
            "INSERT INTO customers VALUES ('ost.example.com', 'ost', 'Ost AG', false); CREATE SCHEMA ost;"
            "CREATE TABLE ost.invoices (id int PRIMARY KEY, total numeric); CREATE INDEX by_total ON ost.invoices (total)"
        )
    with erpkit.open(foreign.conninfo, modules="erpkit.none", tenants_query=QUERY) as door:
        yield door


def test_drift_is_measured_by_what_most_tenants_have_where_there_is_no_template(door: Erp) -> None:
    for names in ((), ["sued.example.com"]):  # named alone, it is compared with all of them, too
        drift = door.tenants.drift(names)
        assert (drift.measure, str(drift)) == (
            "most of 3 tenants",
            "1 of 1 tenant differs from most of 3 tenants"
            if names
            else "1 of 3 tenants differs from most of 3 tenants",
        )
        assert [str(finding) for finding in drift.findings] == ["sued.example.com: index by_total is missing"]
        assert "_template" not in f"{drift!r}{drift.table!r}"
    (finding,) = door.tenants["sued.example.com"].inspect().findings
    assert (finding.problem, finding.remedy) == (
        "index by_total is missing",
        "erpkit tenants drift --ddl sued.example.com",
    )


def test_a_remedy_can_be_pasted_whatever_the_tenant_is_called(database: Database) -> None:
    with database.connection() as connection:
        for schema in ("A & B", "c", "d"):
            connection.execute(f'CREATE SCHEMA "{schema}"; CREATE TABLE "{schema}".invoices (id int)'.encode())
        connection.execute('ALTER TABLE "A & B".invoices ADD extra int')
    query = "SELECT nspname AS slug, nspname AS schema_name FROM pg_namespace WHERE nspname IN ('A & B', 'c', 'd')"
    with erpkit.open(database.conninfo, tenants_query=query) as erp:
        (finding,) = erp.tenants.drift().findings
    assert finding.remedy == "erpkit tenants drift --ddl 'A & B'"


def test_the_explorer_finds_the_tables_of_a_tenant_with_capitals_and_blanks_in_its_name(database: Database) -> None:
    with database.connection() as connection:
        connection.execute('CREATE SCHEMA "Kunde 04"; CREATE TABLE "Kunde 04".invoices (id int)')
    query = "SELECT 'Kunde 04' AS slug, 'Kunde 04' AS schema_name"
    with erpkit.open(database.conninfo, tenants_query=query) as erp:
        explore(erp, "Kunde 04", "invoices")
        with pytest.raises(UsageError, match="orders"):
            explore(erp, "Kunde 04", "orders")


def test_drift_is_measured_against_a_tenant_that_is_named(door: Erp) -> None:
    drift = door.tenants.drift(against="sued.example.com")
    assert drift.measure == "sued.example.com"
    assert {slug: list(map(str, some)) for slug, some in drift.differences.items()} == {
        slug: ["index by_total is extra"] for slug in ("nord.example.com", "ost.example.com")
    }
    assert 'DROP INDEX "nord".by_total' in drift.script


def test_a_tenant_whose_schema_is_empty_lacks_what_most_tenants_have(door: Erp, foreign: Database) -> None:
    with foreign.connection() as connection:
        connection.execute(
            "INSERT INTO customers VALUES ('west.example.com', 'west', 'West AG', false); CREATE SCHEMA west"
        )
    drift = door.tenants.drift(["west.example.com"])
    assert drift.measure == "most of 4 tenants"
    assert "table invoices is missing" in map(str, drift.differences["west.example.com"])
    assert "drift" in {finding.kind for finding in door.tenants["west.example.com"].inspect().findings}


def test_nothing_is_compared_with_a_tenant_whose_schema_is_not_there(door: Erp, foreign: Database) -> None:
    with foreign.connection() as connection:
        connection.execute("DROP SCHEMA ost CASCADE")
    with pytest.raises(UsageError, match="its schema ost does not exist, so nothing can be compared with it"):
        door.tenants.drift(against="ost.example.com")


def test_the_only_tenant_without_a_template_is_not_said_to_be_like_it(door: Erp, foreign: Database) -> None:
    with foreign.connection() as connection:
        connection.execute("DELETE FROM customers WHERE domain <> 'nord.example.com'")
    drift = door.tenants.drift()
    assert (str(drift), [one.kind for one in drift.findings]) == ("nothing was compared", ["not compared"])


def test_a_tenant_that_is_not_there_is_told_in_one_line_and_is_no_key(door: Erp) -> None:
    with pytest.raises(UsageError, match=r"^there is no tenant 'west'"):
        door.tenants["west"]
    assert (door.tenants.get("west"), "west" in door.tenants, "nord.example.com" in door.tenants) == (None, False, True)


def test_a_text_in_place_of_a_list_of_tenants_is_not_taken_letter_by_letter(door: Erp) -> None:
    with pytest.raises(UsageError, match=r"given as a list: write \['nord.example.com'\]"):
        door.tenants.inspect("nord.example.com")


def test_what_changes_tenants_is_refused_in_one_line(door: Erp) -> None:
    for change in (door.tenants.create, door.tenants.drop, door.tenants.suspend, door.tenants.repair):
        with pytest.raises(UsageError, match="erpkit only reads this ERP, which has no registry of tenants"):
            change("nord.example.com")


def test_of_two_tenants_that_differ_the_one_that_has_more_is_the_measure(foreign: Database) -> None:
    with foreign.connection() as connection:
        drift = find_drift(connection, find_tenants(connection, (), QUERY))
    assert [str(line) for line in drift["sued.example.com"]] == ["index by_total is missing"]
    assert list(drift["nord.example.com"]) == []


def test_writing_through_it_is_refused(foreign: Database) -> None:
    with (
        foreign.connection() as connection,
        pytest.raises(UsageError, match="ERPKIT_TENANTS_QUERY failed: .*read-only"),
    ):
        find_tenants(connection, (), "DELETE FROM customers RETURNING domain AS slug, schema_name")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("SELECT domain FROM customers", "no column 'slug'"),
        ("SELEC", "syntax error"),
    ],
)
def test_a_query_that_will_not_do_is_told_in_one_line(foreign: Database, query: str, problem: str) -> None:
    with foreign.connection() as connection, pytest.raises(UsageError, match=problem):
        find_tenants(connection, (), query)


def test_explore_tenants_runs_on_it(foreign: Database, tmp_path: Path) -> None:
    environ = {"ERPKIT_DATABASE": foreign.conninfo, "ERPKIT_TENANTS_QUERY": QUERY}
    done = _command("run", "explore_tenants", "-p", "tenant", "sued.example.com", "--output", str(tmp_path), **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sued.example.com, invoices" in next(tmp_path.glob("explore_tenants-*.html")).read_text()


def test_the_command_line_uses_it(foreign: Database) -> None:
    environ = {"ERPKIT_DATABASE": foreign.conninfo, "ERPKIT_TENANTS_QUERY": QUERY}
    assert "nord.example.com" in _command("tenants", "list", **environ).stdout
    inspected = _command("tenants", "inspect", **environ)
    assert "sued.example.com" in inspected.stdout, inspected.stderr
    assert "index by_total is missing" in _command("tenants", "drift", **environ).stdout
    for arguments in (("create", "acme"), ("suspend", "nord"), ("rename", "nord", "north")):
        refused = _command("tenants", *arguments, **environ)
        assert (refused.returncode, "ERPKIT_TENANTS_QUERY is set" in refused.stderr) == (2, True), refused.stderr
    assert Settings.from_env(environ).tenants_query == QUERY
