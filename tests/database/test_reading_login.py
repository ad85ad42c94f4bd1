"""What only reads connects, on the embedded server, as a login that cannot write, and elsewhere a greater login is named."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from erpkit.config import Settings
from erpkit.database import Database, Tenant
from erpkit.embedded import READER, EmbeddedServer
from erpkit.migrations import Migration
from erpkit.tenants import across, create_tenant, list_tenants, rename_tenant, set_status

WHO = "SELECT session_user::text AS who, current_user::text AS role"


@pytest.fixture(scope="module")
def tenants(shared_database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    return [create_tenant(shared_database, migrations, slug) for slug in ("acme", "bluebird")]


@pytest.fixture
def login(shared_database: Database, tenants: list[Tenant]) -> Iterator[str]:
    """A login without any right, which the database's owner may grant some."""
    name = f"ann_{uuid4().hex[:8]}"
    with shared_database.connection() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN")
        yield name
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def _as(database: Database, login: str) -> Database:
    return Database(make_conninfo(database.conninfo, user=login), f"as {login}")


def test_reading_many_tenants_and_one_connects_as_the_reader(shared_database: Database, tenants: list[Tenant]) -> None:
    frame = across(shared_database, WHO, tenants=tenants).frame
    assert set(frame.who) == {READER}
    assert list(frame.role) == [tenant.reader for tenant in tenants]
    with shared_database.tenant_transaction(tenants[0]) as connection:
        assert connection.execute(WHO).fetchone() == (READER, tenants[0].reader)
    with shared_database.tenant_transaction(tenants[0], write=True) as connection:
        assert connection.execute(WHO).fetchone() == ("postgres", tenants[0].role)
    with shared_database.connection() as connection:
        assert connection.execute(WHO).fetchone() == ("postgres", "postgres")


def test_a_tenant_without_a_reading_role_is_read_by_the_owner(shared_database: Database, tenants: list[Tenant]) -> None:
    foreign = Tenant("acme", tenants[0].schema)
    assert list(across(shared_database, WHO, tenants=[foreign]).frame.who) == ["postgres"]


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "CREATE ROLE another",
        "CREATE DATABASE another",
        "CREATE SCHEMA another",
        "CREATE TABLE public.another (id int)",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('.')",
        "SELECT lo_import('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/another'",
        "ALTER SYSTEM SET work_mem TO '1GB'",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> pg_backend_pid()",
        "DELETE FROM public.tenants",
        "UPDATE public.tenants SET name = 'x'",
        "SELECT * FROM tenant_acme.sales_orders",
        'SET ROLE "{role}"',
        'SET ROLE "{reader}"; DELETE FROM tenant_acme.sales_orders',
        'SET ROLE "{reader}"; SELECT * FROM tenant_bluebird.sales_orders',
    ],
)
def test_the_readers_login_can_do_nothing_but_take_reading_roles_in_a_session_that_may_write(
    shared_database: Database, tenants: list[Tenant], statement: str
) -> None:
    text = statement.format(role=tenants[0].role, reader=tenants[0].reader)
    with (
        psycopg.connect(shared_database.reading(tenants).conninfo, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SET default_transaction_read_only TO off")
        connection.execute(text.encode())


def test_the_reader_reads_after_a_tenant_was_renamed_and_archived(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    create_tenant(database, [], "acme")
    rename_tenant(database, "acme", "apex")
    with database.connection() as connection:
        set_status(connection, "apex", "archived")
        (tenant,) = list_tenants(connection)
    with database.tenant_transaction(tenant) as connection:
        assert connection.execute(WHO).fetchone() == (READER, tenant.reader)


def test_a_pool_apart_and_one_that_was_closed_read_as_the_reader_too(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    with shared_database.apart() as other:
        for _ in range(2):
            assert set(across(other, WHO, tenants=tenants).frame.who) == {READER}
            other.close()


def test_a_server_of_an_older_erpkit_gets_the_reader_while_it_runs(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "home")
    tmp_path.chmod(0o755)
    try:
        server.start()
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP ROLE {READER}; DROP ROLE erpkit_analyst")
        (server.socket_folder / READER).unlink()
        with Database.open(Settings(home=tmp_path / "home")) as database:
            tenant = create_tenant(database, [], "acme")
            assert list(across(database, WHO, tenants=[tenant]).frame.who) == [READER]
    finally:
        server.stop()
        if not server.data.is_relative_to(tmp_path):
            shutil.rmtree(server.data.parent, ignore_errors=True)


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        ("ALTER ROLE {login} SUPERUSER", "it is a superuser"),
        ("ALTER ROLE {login} BYPASSRLS", "it bypasses row-level security"),
        ("ALTER ROLE {login} CREATEROLE", "it may create roles"),
        ("ALTER ROLE {login} CREATEDB", "it may create databases"),
        ("ALTER ROLE {login} REPLICATION", "it may replicate"),
        ("GRANT pg_read_server_files TO {login}", "it is a member of pg_read_server_files"),
        ("GRANT pg_write_all_data TO {login}", "it is a member of pg_write_all_data"),
        ("GRANT erpkit_operator TO {login}", "it is a member of erpkit_operator"),
        ('GRANT "{role}" TO {login}', "it may write tables"),
        ("GRANT CREATE ON SCHEMA public TO {login}", "it may create tables"),
        ("GRANT INSERT ON public.tenants TO {login}", "it may write tables"),
        ("CREATE SCHEMA AUTHORIZATION {login}", "it owns objects"),
    ],
)
def test_a_login_that_may_do_more_than_read_is_named_once_before_free_sql_runs(
    shared_database: Database,
    tenants: list[Tenant],
    login: str,
    caplog: pytest.LogCaptureFixture,
    rights: str,
    reason: str,
) -> None:
    with shared_database.connection() as connection:
        connection.execute(rights.format(login=login, role=tenants[0].role).encode())
    with _as(shared_database, login) as database, caplog.at_level(logging.WARNING):
        for _ in range(2):
            across(database, "SELECT 1 AS one", tenants=tenants)
    (line,) = caplog.messages
    assert line == (
        f"the login {login} may do more than read ({reason}), so hostile SQL could, too: "
        "connect as a member of erpkit_analyst"
    )


def test_the_reader_an_analyst_and_a_login_for_one_tenant_are_not_named(
    shared_database: Database, tenants: list[Tenant], login: str, caplog: pytest.LogCaptureFixture
) -> None:
    across(shared_database, "SELECT 1 AS one", tenants=tenants)
    for role in (f'"{tenants[0].reader}"', "erpkit_analyst"):
        with shared_database.connection() as connection:
            connection.execute(f"GRANT {role} TO {login}".encode())
        with _as(shared_database, login) as database:
            result = across(database, "SELECT count(*) FROM sales_orders", tenants=tenants)
        assert "acme" not in result.errors
    assert (result.errors, caplog.messages) == ({}, [])


def test_a_login_for_one_tenant_cannot_read_another_by_any_sql(
    shared_database: Database, tenants: list[Tenant], login: str
) -> None:
    acme, bluebird = tenants
    with shared_database.connection() as connection:
        connection.execute(f'GRANT "{acme.reader}" TO {login}'.encode())
    hostile = (
        "WITH e AS MATERIALIZED (SELECT count(*) n FROM ts_stat('select to_tsvector(set_config(''role'',''none'',true))')) "
        "SELECT s.word FROM e, LATERAL ts_stat('select array_to_tsvector(array_agg(o::text)) from tenant_bluebird.sales_orders o'"
        " || CASE WHEN n >= 0 THEN '' ELSE '' END) s"
    )
    for statement in (
        hostile,
        f'SET ROLE "{bluebird.reader}"; SELECT 1',
        "RESET ROLE; SELECT count(*) FROM tenant_bluebird.sales_orders",
        "SELECT query_to_xml('SELECT * FROM tenant_bluebird.sales_orders', true, true, '')",
    ):
        with psycopg.connect(shared_database.conninfo, user=login, autocommit=True) as connection:
            connection.execute(f'SET ROLE "{acme.reader}"'.encode())
            assert connection.execute("SELECT count(*) FROM tenant_acme.sales_orders").fetchone() == (0,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION READ WRITE",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "CREATE TEMP TABLE another (id int)",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
    ],
)
def test_what_any_login_may_write_is_refused_in_a_transaction_that_reads(
    shared_database: Database, tenants: list[Tenant], statement: str
) -> None:
    with (
        pytest.raises(psycopg.Error, match=r"read-only|read-write"),
        shared_database.tenant_transaction(tenants[0]) as connection,
    ):
        connection.execute(statement.encode())


def test_a_tenant_whose_reading_role_analysts_may_not_take_is_read_by_the_owner(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    tenant = create_tenant(database, [], "acme")
    with database.connection() as connection:
        connection.execute(f'REVOKE "{tenant.reader}" FROM erpkit_analyst'.encode())
    assert list(across(database, WHO, tenants=[tenant]).frame.itertuples(index=False, name=None)) == [
        ("acme", "postgres", tenant.reader)
    ]
