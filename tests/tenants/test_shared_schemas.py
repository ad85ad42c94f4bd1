"""Schemas that all tenants share: they follow the tenant's own wherever names are looked up, and are there to be read."""

from collections.abc import Iterator

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.erp.door import Erp
from erpkit.errors import DatabaseError
from erpkit.modules import Module, Registry
from erpkit.tenants import across, create_tenant
from erpkit.tenants.drift import compare_tenants
from tests.migrations.fleet import errors, migrate, migration, step

VECTOR = migration(
    2, "CREATE EXTENSION IF NOT EXISTS vector;\nCREATE TABLE points (v vector(3), c text REFERENCES countries);"
)


@pytest.fixture
def sharing(database: Database) -> Iterator[Database]:
    """A database with a schema of extensions and one of tables, which the settings declare as shared."""
    with database.connection() as connection:
        connection.execute(
            "CREATE SCHEMA extensions; CREATE SCHEMA shared; CREATE EXTENSION vector SCHEMA extensions; "
            "CREATE TABLE shared.countries (code text PRIMARY KEY); INSERT INTO shared.countries VALUES ('CH')"
        )
    with Database.open(Settings(database=database.conninfo, shared_schemas=("extensions", "shared"))) as found:
        yield found


def test_what_is_shared_is_found_by_migrations_handlers_and_queries_after_the_tenants_own(sharing: Database) -> None:
    acme, beta = (create_tenant(sharing, [step(1), VECTOR], slug) for slug in ("acme", "beta"))
    with sharing.tenant_transaction(acme, write=True) as connection:
        connection.execute("INSERT INTO points SELECT '[1,2,3]', code FROM countries")
        assert connection.execute("SHOW search_path").fetchone() == ("tenant_acme, extensions, shared, pg_temp",)
    with sharing.tenant_transaction(acme) as connection:
        assert connection.execute("SELECT v <-> '[1,2,5]'::vector, c FROM points").fetchone() == (2.0, "CH")
    frame = across(sharing, "SELECT count(*) AS n FROM points JOIN countries ON code = c", tenants=[acme, beta]).frame
    assert dict(zip(frame["tenant"], frame["n"], strict=True)) == {"acme": 1, "beta": 0}
    with sharing.connection() as connection:
        assert _drift(connection, acme, beta) == []


def test_a_tenants_role_may_read_what_is_shared_and_not_write_to_it(sharing: Database) -> None:
    acme = create_tenant(sharing, [], "acme")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        sharing.tenant_transaction(acme, write=True) as connection,
    ):
        connection.execute("INSERT INTO countries VALUES ('AT')")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        sharing.tenant_transaction(acme, write=True) as connection,
    ):
        connection.execute("CREATE TABLE shared.mine (id int)")


def test_where_it_is_declared_to_be_writable_it_may(sharing: Database) -> None:
    sharing.writable_schemas = ("shared",)
    acme = create_tenant(sharing, [], "acme")
    with sharing.tenant_transaction(acme, write=True) as connection:
        connection.execute("INSERT INTO countries VALUES ('AT')")


def test_tenants_and_tables_that_were_there_before_get_it_with_the_next_migration(
    sharing: Database, database: Database
) -> None:
    acme = create_tenant(database, [], "acme")
    erp = Erp(Settings(database=database.conninfo, shared_schemas=("extensions", "shared")))
    erp.__dict__ |= {"database": sharing, "registry": Registry.of([Module("empty")])}
    plan = erp.migrations.plan()
    assert plan.apply(plan.id).is_complete
    with sharing.tenant_transaction(acme) as connection:
        assert connection.execute("SELECT code FROM countries").fetchall() == [("CH",)]


def test_a_schema_that_is_declared_and_not_there_is_named(sharing: Database) -> None:
    sharing.shared_schemas = ("nowhere",)
    with pytest.raises(DatabaseError, match="there is no schema nowhere, which ERPKIT_SHARED_SCHEMAS names"):
        create_tenant(sharing, [], "acme")


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("tenant_beta", "the schema tenant_beta belongs to beta"),
        ("_template", "the schema _template belongs to _template"),
        ("nowhere", "there is no schema nowhere"),
    ],
)
def test_a_plan_names_a_declared_schema_that_is_a_tenants_own_or_nowhere(
    database: Database, schema: str, problem: str
) -> None:
    for slug in ("acme", "beta"):
        create_tenant(database, [], slug)
    with Erp(Settings(database=database.conninfo, shared_schemas=(schema,))) as erp:
        erp.__dict__ |= {"registry": Registry.of([Module("empty")])}
        with pytest.raises(DatabaseError, match=problem):
            erp.migrations.plan(["acme"])


def test_without_the_declaration_the_extension_is_the_first_tenants_alone(database: Database) -> None:
    """Which is what the lint says before."""
    fleet = [create_tenant(database, [], slug) for slug in ("acme", "beta")]
    alone = migration(2, "CREATE EXTENSION IF NOT EXISTS vector;\nCREATE TABLE points (v vector(3));")
    run = migrate(database, fleet, [step(1), alone], workers=1)
    assert 'type "vector" does not exist' in errors(run)["beta"]


def test_members_of_an_extension_are_never_drift(database: Database) -> None:
    acme, beta = (create_tenant(database, [step(1)], slug) for slug in ("acme", "beta"))
    with database.connection() as connection:
        connection.execute("CREATE EXTENSION vector SCHEMA tenant_acme")
        assert _drift(connection, acme, beta) == []
        connection.execute("CREATE FUNCTION tenant_acme.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        assert len(_drift(connection, acme, beta)) == 1


def _drift(connection: Connection, against: Tenant, tenant: Tenant) -> list[str]:
    found = compare_tenants(connection, [tenant], against=against)
    return [str(one) for several in found.differences.values() for one in several]
