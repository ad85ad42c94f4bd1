"""Connections and tenant transactions: who sees what, and what is told when it does not work."""

import os
from collections.abc import Iterator

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, ErpkitError, UsageError
from erpkit.migrations import Migration
from erpkit.tenants import create_tenant

HOSTILE = [
    'x"; drop schema acme; --',
    "a,b",
    "$user",
    "pg_temp",
    "pg_catalog",
    "",
    "Acme",
    "a" * 64,
    "аcme",
    "a b",
    "a'b",
    "a\n",
    "pg_toast",
    '"acme"',
    "acme,public",
    "acme;",
    "acme\0",
    "ａcme",
    "acmе",
    "acm\u0131",
    "acme\u200b",
    "\u212acme",
]


@pytest.fixture
def tenants(database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    """Two tenants without data."""
    return [create_tenant(database, migrations, slug) for slug in ("acme", "bluebird")]


def test_a_tenant_transaction_sees_its_own_schema_and_not_public(database: Database, tenants: list[Tenant]) -> None:
    with database.tenant_transaction(tenants[0]) as connection:
        assert connection.execute("SELECT current_schema(), current_user::text").fetchone() == (
            "tenant_acme",
            tenants[0].reader,
        )
        assert connection.execute("SHOW search_path").fetchone() == ("tenant_acme, pg_temp",)


def test_reading_another_tenants_table_is_refused_by_postgresql(database: Database, tenants: list[Tenant]) -> None:
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        database.tenant_transaction(tenants[0]) as connection,
    ):
        connection.execute("SELECT * FROM tenant_bluebird.sales_orders")


def test_it_is_read_only_unless_asked(database: Database, tenants: list[Tenant]) -> None:
    insert = "INSERT INTO catalog_categories VALUES ('x')"
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), database.tenant_transaction(tenants[0]) as connection:
        connection.execute(insert)
    with database.tenant_transaction(tenants[0], write=True) as connection:
        connection.execute(insert)
    with database.tenant_transaction(tenants[0]) as connection:
        assert connection.execute("SELECT count(*) FROM catalog_categories").fetchone() == (1,)


def test_an_error_rolls_everything_back_and_leaves_nothing_on_the_connection(
    database: Database, tenants: list[Tenant]
) -> None:
    with pytest.raises(ZeroDivisionError), database.tenant_transaction(tenants[0], write=True) as connection:
        connection.execute("INSERT INTO catalog_categories VALUES ('x')")
        raise ZeroDivisionError
    for _ in range(3):  # whichever connection the pool hands out
        with database.connection() as connection:
            assert connection.execute("SELECT current_user::text, current_schema()").fetchone() == (
                "postgres",
                "public",
            )
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
    with database.tenant_transaction(tenants[0]) as connection:
        assert connection.execute("SELECT count(*) FROM catalog_categories").fetchone() == (0,)


def test_a_statement_that_takes_too_long_is_cancelled(database: Database, tenants: list[Tenant]) -> None:
    with (
        pytest.raises(psycopg.errors.QueryCanceled),
        database.tenant_transaction(tenants[0], statement_timeout=0.05) as connection,
    ):
        connection.execute("SELECT pg_sleep(10)")


def test_a_missing_schema_is_an_error_and_never_falls_through(database: Database) -> None:
    with (
        pytest.raises(DatabaseError, match="tenant ghost: there is no schema tenant_ghost"),
        database.tenant_transaction(Tenant("ghost", "tenant_ghost")),
    ):
        pass


@pytest.mark.parametrize("schema", HOSTILE)
def test_a_hostile_schema_name_opens_no_other_schema(database: Database, schema: str) -> None:
    with pytest.raises(DatabaseError, match="tenant x: "), database.tenant_transaction(Tenant("x", schema)):
        pass


@pytest.fixture
def guarded(server: EmbeddedServer) -> Iterator[str]:
    """A login with a password, on a server that asks for it; the connection string without it."""
    rules = server.data / "pg_hba.conf"
    original = rules.read_text()
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD 'right'")
        rules.write_text(f"local all guarded scram-sha-256\n{original}")
        connection.execute("SELECT pg_reload_conf()")
        yield f"host={server.socket_folder} dbname=postgres user=guarded"
        rules.write_text(original)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE guarded")


def test_a_wrong_password_is_told_in_one_line_without_it(guarded: str) -> None:
    Database.open(Settings(database=f"{guarded} password=right")).close()
    with pytest.raises(DatabaseError, match='password authentication failed for user "guarded"') as caught:
        Database.open(Settings(database=f"{guarded} password=wrong-secret"))
    assert len(str(caught.value).splitlines()) == 1
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("conninfo", "message"),
    [
        ("host=127.0.0.1 port=1 dbname=erp user=me", "cannot connect to 127.0.0.1:1/erp/me: .*refused"),
        ("host=no-such-host.invalid dbname=erp user=me", "cannot connect to no-such-host.invalid:5432/erp/me"),
        ("service=no_such_service", "service no_such_service"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named_in_one_line(conninfo: str, message: str) -> None:
    with pytest.raises(ErpkitError, match=message) as caught:
        Database.open(Settings(database=conninfo))
    assert len(str(caught.value).splitlines()) == 1


def test_a_malformed_connection_string_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="ERPKIT_DATABASE is not a libpq connection string") as caught:
        Database.open(Settings(database="passwort=geheim"))
    assert "geheim" not in str(caught.value)


def test_the_target_names_host_database_and_user(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", str(server.socket_folder))
    monkeypatch.setenv("PGUSER", "postgres")
    monkeypatch.setenv("PGDATABASE", "postgres")
    with Database.open(Settings.from_env(os.environ)) as database:
        assert database.target == f"{server.socket_folder}/postgres/postgres"
