"""A fleet with one tenant of each oddness: it is named with its reason, the others are shown, and the exit code is 3."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import CompletedProcess
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import erpkit as kit
from erpkit.database import TEMPLATE, Database
from erpkit.migrations import Applied, Migration, plan_up, run_plan
from erpkit.tenants import across, create_tenant, ensure_template, list_tenants
from tests.command import erpkit, refused

Run = Callable[..., CompletedProcess[str]]


def _run(database: Database, **environ: str) -> Run:
    known = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample", **environ}
    return lambda *arguments: erpkit(*arguments, **known)


@contextmanager
def _locking(database: Database, schema: str, table: str) -> Iterator[None]:
    with psycopg.connect(database.conninfo) as other:
        other.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(schema, table)))
        yield
        other.rollback()


# An ERP of erpkit's own

ODD = {  # tenant: what is done to it, and what is said of it by the commands that read its log
    "closed": ('REVOKE USAGE ON SCHEMA tenant_closed FROM "{reader}"', "permission denied for schema tenant_closed: GRANT USAGE"),
    "column": ("ALTER TABLE tenant_column.erpkit_dead_letters DROP COLUMN status CASCADE; "
               "ALTER TABLE tenant_column.erpkit_events DROP COLUMN topic CASCADE", "does not exist"),
    "forbidden": ('REVOKE SELECT ON ALL TABLES IN SCHEMA tenant_forbidden FROM "{reader}"', "permission denied for table"),
    "gone": ("DROP SCHEMA tenant_gone CASCADE", "its schema tenant_gone does not exist"),
    "locked": ("SELECT 1", "could not get a lock within 1 s"),
    "orphan": ('DROP OWNED BY "{reader}"; DROP ROLE "{reader}"', "does not exist"),
}  # fmt: skip


@pytest.fixture(scope="module")
def own(shared_database: Database, migrations: tuple[Migration, ...]) -> Database:
    """Two tenants in order, `acme` and `bluebird`, and one of each oddness."""
    for slug in ("acme", "bluebird"):
        create_tenant(shared_database, migrations, slug)
    provision = plan_up([TEMPLATE], migrations, Applied())
    with shared_database.connection() as connection:
        ensure_template(connection)
    run_plan(shared_database, provision, provision.id)
    with shared_database.connection() as connection:
        for slug, (statements, _) in ODD.items():
            tenant = create_tenant(shared_database, migrations, slug)
            connection.execute(statements.format(reader=tenant.reader).encode())
    return shared_database


@pytest.fixture(scope="module")
def locked(own: Database) -> Iterator[None]:
    with (
        _locking(own, "tenant_locked", "erpkit_events"),
        _locking(own, "tenant_locked", "erpkit_dead_letters"),
        _locking(own, "tenant_locked", "goose_db_version_sales"),
    ):
        yield


READING = [
    ("events", "lag"),
    ("events", "dead-letters", "list"),
    ("events", "dead-letters", "count"),
    ("events", "replay", "--topic", "sales.*"),
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_the_logs_names_each_odd_tenant_and_shows_the_rest(
    own: Database, locked: None, command: tuple[str, ...]
) -> None:
    done = _run(own)(*command, "-o", "table")
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("! ")]
    for slug, (_, reason) in ODD.items():
        (line,) = [line for line in lines if line.startswith(f"! {slug}: ")]
        assert reason in line
    assert not [line for line in lines if line.startswith(("! acme: ", "! bluebird: "))]
    document = json.loads(_run(own)(*command, "--json").stdout)
    entries = (
        document["errors"]
        if isinstance(document, dict)
        else {one["tenant"]: one["error"] for one in document if one["uuid" if "uuid" in one else "handler"] is None}
    )
    assert {slug: ODD[slug][1] in reason for slug, reason in entries.items()} == dict.fromkeys(ODD, True)


def test_inspection_shows_every_tenant_and_says_of_the_odd_ones_what_was_not_read(own: Database, locked: None) -> None:
    done = _run(own)("tenants", "inspect", "--json")
    assert done.returncode == 3
    found = {one["slug"]: one for one in json.loads(done.stdout)["tenants"]}
    assert set(found) == {*ODD, "acme", "bluebird"}
    assert (found["acme"]["errors"], found["acme"]["rows"]["sales_orders"]) == ({}, 0)
    assert "permission denied for schema" in found["closed"]["errors"]["dead letters"]
    assert set(found["column"]["errors"]) == {"dead letters", "backlog"}
    assert "permission denied for table" in found["forbidden"]["errors"]["rows"]
    assert "versions" in found["orphan"]["errors"]
    assert found["gone"]["problems"] == ["gone: its schema tenant_gone does not exist"]
    assert "versions" in found["locked"]["unread"]
    assert (found["gone"]["pending"], found["gone"]["dead_letters"], found["gone"]["drift"]) == (None, None, None)
    assert (found["closed"]["dead_letters"], found["closed"]["backlog"], found["locked"]["drift"]) == (None, None, None)
    assert (found["acme"]["pending"], found["acme"]["dead_letters"], found["acme"]["drift"]) == (0, 0, [])
    alone = _run(own)("tenants", "inspect", "forbidden", "-o", "table")
    assert (alone.returncode, "permission denied for table" in alone.stdout) == (3, True)
    gone = _run(own)("tenants", "inspect", "gone", "-o", "table").stdout
    assert "! gone: its schema tenant_gone does not exist" in gone
    assert not [words for words in ("It has no tables", "no events", "versions") if words in gone]


def test_the_summary_of_an_inspection_counts_the_tenants_that_were_not_read(own: Database, locked: None) -> None:
    with kit.open(own.conninfo, modules="erpkit.sample") as erp:
        assert erp.tenants.inspect().facts["not read"] == len(ODD)
        nothing = erp.tenants.inspect(["gone"]).facts
    assert (nothing["dead letters"], nothing["events"], nothing["not read"]) == (None, None, 1)


def test_the_table_of_inspection_has_a_figure_only_where_something_was_read(own: Database, locked: None) -> None:
    rows = csv.DictReader(io.StringIO(_run(own)("tenants", "inspect", "-o", "csv").stdout))
    heads = ("migrations pending", "dead letters", "drift", "backlog")
    found = {row["tenant"]: [row[head] or "–" for head in heads] for row in rows}
    nothing = {slug: ["–", "–", "–"] for slug in ("closed", "forbidden", "gone", "locked", "orphan")}
    assert {slug: [pending, letters, backlog] for slug, (pending, letters, _, backlog) in found.items()} == {
        "acme": ["0", "0", "0"], "bluebird": ["0", "0", "0"], "column": ["0", "–", "–"], **nothing,
    }  # fmt: skip
    assert {slug for slug, (_, _, drift, _) in found.items() if drift == "–"} == {"gone", "locked"}


def test_drift_is_shown_for_all_tenants_that_are_there(own: Database, locked: None) -> None:
    done = _run(own)("tenants", "drift", "-o", "table")
    assert done.returncode == 3
    assert "! column: column erpkit_dead_letters.status is missing" in done.stdout
    assert "! gone: could not be compared: its schema tenant_gone does not exist" in done.stdout
    assert "! acme" not in done.stdout


def test_status_and_plan_name_tenants_whose_versions_cannot_be_read(own: Database, locked: None) -> None:
    status = _run(own)("migrate", "status", "-o", "table")
    assert status.returncode == 3
    assert [line.split()[:2] for line in status.stdout.splitlines() if line.startswith("acme")] == [["acme", "10"]]
    planned = _run(own)("migrate", "plan", "--json")
    assert planned.returncode == 3
    unread = {"closed", "forbidden", "gone", "locked", "orphan"}
    assert set(json.loads(planned.stdout)["refused"]) == unread
    assert {line.split(":")[0].removeprefix("! ") for line in status.stdout.splitlines() if line[0:1] == "!"} == unread
    states = json.loads(_run(own)("migrate", "status", "--json").stdout)
    assert {one["tenant"] for one in states if one["state"] == "unread"} == unread
    assert all(ODD[one["tenant"]][1] in one["error"] for one in states if one["state"] == "unread")


def test_queries_are_checked_where_they_can_be(own: Database, locked: None) -> None:
    done = _run(own)("queries", "check", "--json")
    assert done.returncode == 3
    broken = {one["tenant"] for one in json.loads(done.stdout)["broken"]}
    assert {"gone"} <= broken <= set(ODD)


def test_one_query_over_all_tenants_names_the_odd_ones(own: Database, locked: None) -> None:
    with own.connection() as connection:
        tenants = list_tenants(connection)
    result = across(own, "SELECT count(*) AS events FROM erpkit_events WHERE topic LIKE 'sales.%'", tenants=tenants)
    assert set(result.errors) == set(ODD)
    assert "locked" in result.errors["locked"]
    assert list(result.frame["tenant"]) == ["acme", "bluebird"]


# An ERP that erpkit did not make

NAMES = [
    "big-corp", "Capitals", "with space", "dotted.name", 'quo"te', "it's", "9lives", "a, b", "grüße", "100%s", "{brace}", "back\\slash",
    "$1", "x" * 63, "select",
]  # fmt: skip
BAD = {
    "closed": "permission denied for schema closed-off: GRANT USAGE",
    "forbidden": "permission denied for table",
    "gone": "its schema not-there does not exist",
    "locked": "could not get a lock within 1 s",
}
QUERY = "SELECT slug, schema_name FROM public.customers"


@pytest.fixture
def foreign(database: Database) -> Iterator[Run]:
    """Customers whose schemas have odd names, and some that cannot be read, as a login without superuser's rights sees them."""
    login = f"visitor_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN; CREATE TABLE customers (slug text, schema_name text)")
        connection.execute(f"GRANT SELECT ON customers TO {login}")
        for slug, schema in [
            *((f"Kunde {name}", name) for name in NAMES),
            ("closed", "closed-off"), ("forbidden", "for-bidden"), ("locked", "locked"), ("gone", "not-there"),
        ]:  # fmt: skip
            connection.execute("INSERT INTO customers VALUES (%s, %s)", [slug, schema])
            if slug != "gone":
                _make(connection, schema, login, slug)
        options = {"user": login}
        seen = Database(psycopg.conninfo.make_conninfo(database.conninfo, **options), "as a visitor")
        with _locking(database, "locked", "invoices"):
            yield _run(seen, ERPKIT_TENANTS_QUERY=QUERY)
        connection.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")


def _make(connection: psycopg.Connection[tuple[object, ...]], schema: str, login: str, slug: str) -> None:
    statements = [
        "CREATE SCHEMA {0}",
        "CREATE TABLE {0}.invoices (id int PRIMARY KEY, total numeric)",
        "INSERT INTO {0}.invoices VALUES (1, 9.5)",
        "CREATE TABLE {0}.goose_db_version (id serial, version_id bigint, is_applied bool)",
        "GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO {1}" if slug != "forbidden" else "SELECT 1",
        "GRANT USAGE ON SCHEMA {0} TO {1}" if slug != "closed" else "SELECT 1",
    ]
    for statement in statements:
        connection.execute(sql.SQL(statement).format(sql.Identifier(schema), sql.Identifier(login)))


def test_schemas_of_any_name_are_read_and_the_others_are_named(foreign: Run) -> None:
    listed = foreign("tenants", "list", "--json")
    assert {one["schema"] for one in json.loads(listed.stdout)} >= set(NAMES)
    done = foreign("tenants", "inspect", "--json")
    assert done.returncode == 3, done.stderr
    found = {one["slug"]: one for one in json.loads(done.stdout)["tenants"]}
    for name in NAMES:
        one = found[f"Kunde {name}"]
        assert (one["rows"]["invoices"], one["errors"]) == (1, {})
    assert BAD["closed"] in found["closed"]["errors"]["rows"]
    assert BAD["forbidden"] in found["forbidden"]["errors"]["rows"]
    assert found["locked"]["locked"] == ["invoices"]
    assert found["gone"]["problems"] == ["gone: its schema not-there does not exist"]
    for name in NAMES[:2]:
        alone = foreign("tenants", "inspect", f"Kunde {name}", "-o", "table")
        assert (alone.stderr, "invoices" in alone.stdout) == ("", True), alone.stdout


def test_other_commands_cope_with_the_names_too(foreign: Run) -> None:
    drift = foreign("tenants", "drift", "-o", "table")
    assert "! gone: could not be compared: its schema not-there does not exist" in drift.stdout
    assert not [line for line in drift.stdout.splitlines() if line.startswith("! Kunde")]
    status = foreign("migrate", "status", "--json")
    unread = {one["tenant"]: one["error"] for one in json.loads(status.stdout) if one["state"] == "unread"}
    assert {slug: BAD[slug] in unread.get(slug, BAD[slug]) for slug in BAD} == dict.fromkeys(BAD, True)
    assert not [slug for slug in unread if slug.startswith("Kunde")]
    for command in (["migrate", "plan"], ["queries", "check"], ["modules", "check"]):
        done = foreign(*command)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 3), (command, done.stdout, done.stderr)


def test_one_query_reads_schemas_of_any_name(foreign: Run, database: Database) -> None:
    with database.connection() as connection:
        tenants = list_tenants(connection, QUERY)
    result = across(database, "SELECT sum(total) AS total FROM invoices", tenants=tenants)
    assert set(result.frame["tenant"]) == {*(f"Kunde {name}" for name in NAMES), "closed", "forbidden"}
    assert set(result.errors) == {"gone", "locked"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("('a', 'x'), ('a', 'y')", ("tenant 'a' more than once",)),
        ("('a', 'x'), ('b', 'x')", ("schema 'x' more than once",)),
        ("(NULL, 'x')", ("without a slug", "'x'")),
        ("('a', NULL)", ("without a schema_name", "'a'")),
    ],
)
def test_a_query_that_names_no_tenant_or_one_twice_is_refused_in_a_sentence(
    database: Database, rows: str, words: tuple[str, ...]
) -> None:
    query = f"SELECT * FROM (VALUES {rows}) t (slug, schema_name)"
    refused(erpkit("tenants", "list", ERPKIT_DATABASE=database.conninfo, ERPKIT_TENANTS_QUERY=query), 2, *words)
