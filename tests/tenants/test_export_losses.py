"""What a dump of one schema leaves behind: refused where it is data, and named where it is anything else."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import DatabaseError, UsageError
from erpkit.tenants import create_tenant, export_tenant, import_tenant, read_manifest
from tests.command import erpkit


@pytest.fixture(scope="module")
def planted(shared_database: Database) -> tuple[Database, Tenant]:
    """A database in which there are large objects that nobody refers to, and tables of other schemas."""
    tenant = create_tenant(shared_database, [], "acme")
    with shared_database.connection() as connection:
        connection.execute("SELECT lo_create(4000001), lo_create(4000002), lo_create(4000003); CREATE SCHEMA shared")
    return shared_database, tenant


@pytest.fixture
def acme(planted: tuple[Database, Tenant]) -> Iterator[tuple[Database, Tenant]]:
    """The tenant, whose schema is emptied afterwards."""
    database, tenant = planted
    yield planted
    with database.connection() as connection:
        connection.execute(
            "SET client_min_messages TO warning; DROP SCHEMA tenant_acme CASCADE; CREATE SCHEMA tenant_acme; "
            "DROP SCHEMA shared CASCADE; CREATE SCHEMA shared; DROP PUBLICATION IF EXISTS feed"
        )
        connection.execute(
            f'GRANT USAGE ON SCHEMA tenant_acme TO "{tenant.role}", "{tenant.reader}"; '
            f'ALTER DEFAULT PRIVILEGES IN SCHEMA tenant_acme GRANT SELECT ON TABLES TO "{tenant.role}", "{tenant.reader}"'.encode()
        )


def _make(database: Database, *statements: str) -> None:
    with database.connection() as connection:
        for statement in ("SET search_path TO tenant_acme", *statements):
            connection.execute(statement.encode())


LARGE = {
    "docs.body": ["CREATE TABLE docs (body oid)", "INSERT INTO docs VALUES (4000001), (4000001), (7), (NULL)"],
    "docs.lo": ["CREATE DOMAIN lo AS oid", "CREATE TABLE docs (lo lo)", "INSERT INTO docs VALUES (4000001)"],
    "docs.of domain": [
        "CREATE DOMAIN lo AS oid", "CREATE DOMAIN big AS lo NOT NULL", 'CREATE TABLE docs ("of domain" big)',
        "INSERT INTO docs VALUES (4000001)",
    ],
    "docs.list": ["CREATE TABLE docs (list oid[])", "INSERT INTO docs VALUES ('{7,4000001}'), ('{}'), (NULL)"],
    "docs.lists": [
        "CREATE DOMAIN lo AS oid", "CREATE DOMAIN los AS lo[]", "CREATE TABLE docs (lists los)",
        "INSERT INTO docs VALUES ('{{7,4000001},{4,4000001}}')",
    ],
    "docs.page.scan": [
        "CREATE TYPE page AS (number int, scan oid)", "CREATE TABLE docs (page page)",
        "INSERT INTO docs VALUES ((1, 4000001)), (NULL)",
    ],
    "docs.pages.scan": [
        "CREATE TYPE page AS (number int, scan oid)", "CREATE TABLE docs (pages page[])",
        "INSERT INTO docs VALUES (ARRAY[(1, 4000001)::page, (2, 9)::page])",
    ],
    "docs_2.body": [
        "CREATE TABLE docs (n int, body oid) PARTITION BY LIST (n)", "CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1)",
        "CREATE TABLE docs_2 PARTITION OF docs FOR VALUES IN (2)", "INSERT INTO docs VALUES (1, 7), (2, 4000001)",
    ],
    "heirs.body": [
        "CREATE TABLE docs (body oid)", "CREATE TABLE heirs () INHERITS (docs)", "INSERT INTO heirs VALUES (4000001)",
    ],
    'Odd "table".a.b': ['CREATE TABLE "Odd ""table""" ("a.b" oid)', 'INSERT INTO "Odd ""table""" VALUES (4000001)'],
}  # fmt: skip


@pytest.mark.parametrize("column", LARGE)
def test_an_export_that_would_lose_a_large_object_is_refused(
    column: str, acme: tuple[Database, Tenant], tmp_path: Path
) -> None:
    database, tenant = acme
    _make(database, *LARGE[column])
    with pytest.raises(UsageError) as caught:
        export_tenant(database, tenant, tmp_path / "acme.erpkit")
    assert f"would lose 1 large object that {column} refers to: copy them into a column of type bytea" in str(
        caught.value
    )
    assert list(tmp_path.iterdir()) == []


def test_an_oid_that_is_no_large_objects_is_exported(acme: tuple[Database, Tenant], tmp_path: Path) -> None:
    database, tenant = acme
    _make(
        database,
        "CREATE TABLE docs (body oid, kind regclass, list oid[], word text)",
        "INSERT INTO docs VALUES (7, 'docs', '{8}', '4000001')",
        "CREATE VIEW every_large_object AS SELECT oid FROM pg_largeobject_metadata",
        "CREATE MATERIALIZED VIEW copied AS SELECT oid FROM pg_largeobject_metadata",
    )
    assert export_tenant(database, tenant, tmp_path / "acme.erpkit").rows == {"docs": 1}


def test_large_objects_that_were_copied_into_the_table_are_carried(
    acme: tuple[Database, Tenant], tmp_path: Path
) -> None:
    """What the refusal tells to do."""
    database, tenant = acme
    _make(
        database,
        "SELECT lo_put(4000003, 0, 'the scan')", "CREATE TABLE docs (body oid)", "INSERT INTO docs VALUES (4000003)",
        "ALTER TABLE docs ADD COLUMN data bytea", "UPDATE docs SET data = lo_get(body), body = NULL",
    )  # fmt: skip
    export_tenant(database, tenant, tmp_path / "acme.erpkit")
    copy = import_tenant(database, tmp_path / "acme.erpkit", f"copy_{tmp_path.name[-1:]}").tenant
    with database.tenant_transaction(copy) as connection:
        assert connection.execute("SELECT data FROM docs").fetchone() == (b"the scan",)


ELSEWHERE = {
    "a partition": ["CREATE TABLE t (n int) PARTITION BY LIST (n)", "CREATE TABLE shared.one PARTITION OF t FOR VALUES IN (1)"],
    "an heir": ["CREATE TABLE t (n int)", "CREATE TABLE shared.one () INHERITS (t)"],
    "a parent": ["CREATE TABLE shared.t (n int) PARTITION BY LIST (n)", "CREATE TABLE one PARTITION OF shared.t DEFAULT"],
    "an ancestor": ["CREATE TABLE shared.t (n int)", "CREATE TABLE one () INHERITS (shared.t)"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_an_export_of_a_table_that_is_stored_in_two_schemas_is_refused(
    kind: str, acme: tuple[Database, Tenant], tmp_path: Path
) -> None:
    database, tenant = acme
    _make(database, *ELSEWHERE[kind])
    with pytest.raises(UsageError, match=r"would lose the rows of .*one, a part of table .*t: move that table into"):
        export_tenant(database, tenant, tmp_path / "acme.erpkit")
    assert list(tmp_path.iterdir()) == []


def test_what_else_is_left_out_is_named_and_the_exit_code_says_so(
    acme: tuple[Database, Tenant], tmp_path: Path
) -> None:
    database, tenant = acme
    name = tenant.schema and database.conninfo.split("/")[3].split("?")[0]
    other, member = f"{name}_reports", f"{name}_member"
    _make(
        database,
        f"CREATE ROLE {other}", f"CREATE ROLE {member} LOGIN", f'GRANT "{tenant.reader}" TO {member}',
        "CREATE TABLE orders (id int, a int, b int)", "CREATE TABLE secrets (id int)",
        f'REVOKE SELECT ON secrets FROM "{tenant.reader}"', f"GRANT SELECT ON orders TO {other}",
        f"GRANT SELECT (id), UPDATE (id) ON secrets TO {other}",
        f"CREATE POLICY mine ON orders TO {other} USING (true)",
        f"CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION f() OWNER TO {other}",
        "CREATE STATISTICS shared.ab ON a, b FROM orders",
        "CREATE PUBLICATION feed FOR TABLE orders",
        "REVOKE EXECUTE ON FUNCTION f() FROM PUBLIC",
        f"ALTER ROLE \"{tenant.role}\" SET work_mem TO '5MB'",
        "CREATE TYPE money2 AS (amount int)",
        "CREATE FUNCTION to_text(money2) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT ($1).amount::text $$",
        "CREATE CAST (money2 AS text) WITH FUNCTION to_text(money2)",
        "CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        f"CREATE EVENT TRIGGER {name}_ddl ON ddl_command_end WHEN TAG IN ('CREATE RULE') EXECUTE FUNCTION on_ddl()",
    )  # fmt: skip
    try:
        file, environ = str(tmp_path / "acme.erpkit"), {"ERPKIT_DATABASE": database.conninfo}
        done = erpkit("tenants", "export", "acme", file, **environ)
        again = erpkit("tenants", "import", file, "--as", "bare", **environ)
    finally:
        _make(database, f"DROP EVENT TRIGGER {name}_ddl", f"DROP OWNED BY {other}, {member} CASCADE")
        _make(database, f"DROP ROLE {other}, {member}", f'ALTER ROLE "{tenant.role}" RESET ALL')
    assert done.returncode == 3, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("!")] == [
        f"! not in the file: {what}"
        for what in (
            "cast from tenant_acme.money2 to text",
            f"event trigger {name}_ddl: it calls tenant_acme.on_ddl()",
            f"policy mine of tenant_acme.orders names role {other}",
            "publication feed: it publishes tenant_acme.orders",
            "statistics shared.ab of table tenant_acme.orders",
            "that PUBLIC may not execute tenant_acme.f()",
            f'that role "{tenant.reader}" may not read tenant_acme.secrets',
            f'that role {member} is a member of "{tenant.reader}"',
            f"the owner {other} of 1 object",
            f"the rights of {other} on 2 objects",
            f'the settings of role "{tenant.role}"',
        )
    ]
    assert len(read_manifest(tmp_path / "acme.erpkit").left_out) == 11
    assert (again.returncode, again.stderr.count("! not in the file:")) == (3, 11), again.stderr


def test_what_has_to_be_there_at_the_import_is_named_and_loses_nothing(
    acme: tuple[Database, Tenant], tmp_path: Path
) -> None:
    database, _ = acme
    _make(
        database,
        "CREATE EXTENSION IF NOT EXISTS vector SCHEMA shared",
        "CREATE TYPE shared.color AS ENUM ('red')", "CREATE TABLE shared.countries (code text PRIMARY KEY)",
        "CREATE FUNCTION shared.tax(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
        "CREATE FUNCTION shared.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE SEQUENCE shared.numbers",
        "CREATE TABLE orders (id int DEFAULT nextval('shared.numbers'), color shared.color, place shared.vector, "
        "code text REFERENCES shared.countries, tax int GENERATED ALWAYS AS (shared.tax(3)) STORED)",
        "CREATE TRIGGER noting AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION shared.note()",
    )  # fmt: skip
    done = erpkit("tenants", "export", "acme", str(tmp_path / "acme.erpkit"), ERPKIT_DATABASE=database.conninfo)
    assert done.returncode == 0, done.stdout
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines() if line.startswith("the import needs")] == [
        "extension vector", "function shared.note()", "function shared.tax(integer)", "sequence shared.numbers",
        "table shared.countries", "type shared.color",
    ]  # fmt: skip


def test_a_login_that_does_not_see_every_row_exports_nothing(acme: tuple[Database, Tenant], tmp_path: Path) -> None:
    database, tenant = acme
    name = database.conninfo.split("/")[3].split("?")[0]
    _make(
        database,
        f"CREATE ROLE {name}_clerk LOGIN", "CREATE TABLE orders (id int)", "INSERT INTO orders VALUES (1), (2)",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON orders USING (id = 1)",
        f"GRANT USAGE ON SCHEMA tenant_acme TO {name}_clerk", f"GRANT SELECT ON ALL TABLES IN SCHEMA tenant_acme TO {name}_clerk",
    )  # fmt: skip
    try:
        given = psycopg.conninfo.make_conninfo(database.conninfo, user=f"{name}_clerk")
        with (
            Database(given, "as a clerk") as clerk,
            pytest.raises(DatabaseError, match="pg_dump failed: .*row-level security"),
        ):
            export_tenant(clerk, tenant, tmp_path / "acme.erpkit")
    finally:
        _make(database, f"DROP OWNED BY {name}_clerk", f"DROP ROLE {name}_clerk")
    assert list(tmp_path.iterdir()) == []
