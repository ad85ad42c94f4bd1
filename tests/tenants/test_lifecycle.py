"""A tenant's life after its creation: roles, analysts, renaming, archiving and dropping."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import DatabaseError, PlanChangedError, UsageError
from erpkit.migrations import Migration
from erpkit.sample.demo import Planted
from erpkit.tenants import (
    ANALYSTS,
    create_tenant,
    drop_tenant,
    export_tenant,
    find_drift,
    get_tenant,
    import_tenant,
    inspect_tenants,
    list_tenants,
    plan_drop,
    rename_tenant,
    set_status,
)
from tests.conftest import SCRATCH

INSERT = "INSERT INTO catalog_categories VALUES ('x')"


@pytest.fixture
def tenants(database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    """Two tenants without data."""
    return [create_tenant(database, migrations, slug) for slug in ("acme", "bluebird")]


@pytest.fixture
def analyst(database: Database, tenants: list[Tenant]) -> Iterator[Database]:
    """The database as a login sees it that is a member of the group of analysts and nothing else."""
    login = f"analyst_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN; GRANT {ANALYSTS} TO {login}")
        with Database(psycopg.conninfo.make_conninfo(database.conninfo, user=login), "as an analyst") as seen:
            yield seen
        connection.execute(f"DROP ROLE {login}")


def _roles(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute(
        "SELECT split_part(rolname, '.tenant_', 2) FROM pg_roles WHERE starts_with(rolname, current_database() || '.') ORDER BY 1"
    ).fetchall()


def test_a_tenants_role_gets_tables_that_are_made_later(database: Database, tenants: list[Tenant]) -> None:
    with database.connection() as connection:
        connection.execute("CREATE TABLE tenant_acme.later (id int GENERATED ALWAYS AS IDENTITY, word text)")
    with database.tenant_transaction(tenants[0], write=True) as connection:
        connection.execute("INSERT INTO later (word) VALUES ('x')")
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        database.tenant_transaction(tenants[1]) as connection,
    ):
        connection.execute("SELECT * FROM tenant_acme.later")


def test_an_analyst_reads_a_tenant_inside_its_transaction_and_nothing_outside(
    database: Database, analyst: Database, tenants: list[Tenant]
) -> None:
    with database.tenant_transaction(tenants[0], write=True) as connection:
        connection.execute(INSERT)
    with analyst.connection() as connection:
        assert list_tenants(connection) == tenants
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM tenant_acme.catalog_categories")
    with analyst.tenant_transaction(tenants[0]) as connection:
        assert connection.execute("SELECT * FROM catalog_categories").fetchall() == [("x",)]
        assert connection.execute("SELECT current_user::text").fetchone() == (tenants[0].reader,)
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        analyst.tenant_transaction(tenants[0]) as connection,
    ):
        connection.execute("SELECT * FROM tenant_bluebird.catalog_categories")


def test_an_analyst_is_refused_every_way_to_write(analyst: Database, tenants: list[Tenant]) -> None:
    with (
        pytest.raises(DatabaseError, match="tenant acme: cannot enter its schema: permission denied to set role"),
        analyst.tenant_transaction(tenants[0], write=True),
    ):
        pass
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), analyst.tenant_transaction(tenants[0]) as connection:
        connection.execute(INSERT)
    with (
        pytest.raises(DatabaseError, match="was ended inside"),
        analyst.tenant_transaction(tenants[0]) as connection,  # READ ONLY can be left; the role is what holds
    ):
        connection.execute("COMMIT")
        connection.execute(f'BEGIN READ WRITE; SET LOCAL ROLE "{tenants[0].reader}"')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO tenant_acme.catalog_categories VALUES ('x')")
        connection.execute("ROLLBACK")


def test_a_long_slug_still_has_two_roles(database: Database) -> None:
    first, second = (create_tenant(database, [], "a" * 47 + last) for last in "xy")
    assert first.role != second.role
    assert len(str(first.reader)) <= 63
    for tenant in (first, second):
        with database.tenant_transaction(tenant, write=True) as connection:
            assert connection.execute("SELECT current_user::text").fetchone() == (tenant.role,)


def test_a_renamed_tenant_has_its_data_under_the_new_name_only(
    database: Database, erp: Planted, migrations: tuple[Migration, ...]
) -> None:
    with database.connection() as connection:
        (before,) = inspect_tenants(connection, [get_tenant(connection, "acme")], migrations)
    renamed = rename_tenant(database, "acme", "apex").tenant
    assert (renamed.schema, renamed.name) == ("tenant_apex", before.tenant.name)
    with database.connection() as connection:
        (after,) = inspect_tenants(connection, [get_tenant(connection, "apex")], migrations)
        assert (after.rows, len(after.problems)) == (before.rows, len(before.problems))
        assert find_drift(connection, [renamed]) == {"apex": list(before.drift)}
        with pytest.raises(UsageError, match="no tenant 'acme'"):
            get_tenant(connection, "acme")
        assert not {("acme",), ("acme.read",)} & set(_roles(connection))
    with database.tenant_transaction(renamed, write=True) as connection:
        connection.execute(INSERT)


def test_renaming_names_what_still_has_the_old_schema_in_its_text(database: Database, tenants: list[Tenant]) -> None:
    """Views and foreign keys follow by object id; function bodies, settings and constants do not."""
    acme, bluebird = (tenant.schema for tenant in tenants)
    with database.connection() as connection:
        connection.execute(
            f"CREATE FUNCTION {acme}.body() RETURNS bigint LANGUAGE sql AS $$\nSELECT count(*)\nFROM {acme}.catalog_categories $$; "
            f"CREATE FUNCTION {acme}.path() RETURNS int LANGUAGE sql SET search_path = {acme} AS 'SELECT 1'; "
            f"CREATE FUNCTION {acme}.follows() RETURNS bigint LANGUAGE sql RETURN (SELECT count(*) FROM {acme}.catalog_categories); "
            f"CREATE FUNCTION {acme}.another() RETURNS text LANGUAGE sql AS $$ SELECT 'x{acme} {acme}_2' $$; "
            f"CREATE FUNCTION public.of_all() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM {acme}.catalog_categories $$; "
            f"CREATE VIEW {acme}.seen AS SELECT * FROM {acme}.catalog_categories; "
            f"CREATE VIEW {acme}.told AS SELECT '{acme}' AS name; "
            f"CREATE VIEW {bluebird}.seen AS SELECT * FROM {acme}.catalog_categories; "
            f"ALTER TABLE {acme}.catalog_categories ADD origin text DEFAULT '{acme}' CHECK (origin <> '{acme}.x')"
        )
    moved = rename_tenant(database, "acme", "apex")
    assert [mention.object for mention in moved.mentions] == [
        "constraint catalog_categories_origin_check on table tenant_apex.catalog_categories",
        "default value for column origin of table tenant_apex.catalog_categories",
        "function of_all()",
        "function tenant_apex.body()",
        "function tenant_apex.path()",
        "view tenant_apex.told",
    ]
    assert [mention.line for mention in moved.mentions[3:5]] == [
        "FROM tenant_acme.catalog_categories",
        "search_path=tenant_acme",
    ]
    assert rename_tenant(database, "bluebird", "bluebird", "Blue").mentions == ()


def test_renaming_to_a_taken_or_bad_name_changes_nothing(database: Database, tenants: list[Tenant]) -> None:
    with pytest.raises(UsageError, match="tenant bluebird or schema tenant_bluebird already exists"):
        rename_tenant(database, "acme", "bluebird")
    with pytest.raises(UsageError, match="not a valid tenant name"):
        rename_tenant(database, "acme", 'x"; drop schema tenant_acme; --')
    with database.connection() as connection:
        connection.execute('CREATE ROLE "' + str(tenants[0].role).replace("acme", "apex.read") + '"')
        with pytest.raises(DatabaseError, match="acme cannot be renamed to apex: .*already exists"):
            rename_tenant(database, "acme", "apex")
        assert list_tenants(connection) == tenants


def test_only_the_name_for_people_may_change(database: Database, tenants: list[Tenant]) -> None:
    assert rename_tenant(database, "acme", "acme", "Acme & Sons").tenant.name == "Acme & Sons"


def test_renaming_waits_for_a_migration_and_gives_up_in_one_line(database: Database, tenants: list[Tenant]) -> None:
    with database.transaction() as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('erpkit.migrate.tenant_acme', 0))")
        with pytest.raises(
            DatabaseError, match=r"tenant acme is in use: .*; held by process \d+ .*; it was not renamed"
        ):
            rename_tenant(database, "acme", "apex")


def test_an_archived_tenant_can_be_read_and_not_written_until_it_is_activated(
    database: Database, tenants: list[Tenant]
) -> None:
    with database.connection() as connection:
        set_status(connection, "acme", "archived")
    with database.tenant_transaction(tenants[0]) as reading:
        assert reading.execute("SELECT count(*) FROM catalog_categories").fetchone() == (0,)
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        database.tenant_transaction(tenants[0], write=True) as connection,
    ):
        connection.execute(INSERT)
    with database.connection() as connection:
        set_status(connection, "acme", "active")
        connection.execute("CREATE TABLE tenant_acme.later (id int)")
    with database.tenant_transaction(tenants[0], write=True) as connection:
        connection.execute(f"{INSERT}; INSERT INTO later VALUES (1)")


def test_dropping_needs_a_tenant_that_is_not_active_and_the_plans_id(database: Database, erp: Planted) -> None:
    with database.connection() as connection:
        plan = plan_drop(connection, get_tenant(connection, "acme"))
        assert (plan.rows["catalog_products"], plan.byte_count > 500_000) == (6, True)
        with pytest.raises(UsageError, match="tenant acme is active: suspend or archive it first"):
            drop_tenant(database, "acme", plan.id)
        set_status(connection, "acme", "suspended")
        connection.execute("INSERT INTO tenant_acme.catalog_categories VALUES ('new')")
        with pytest.raises(PlanChangedError, match="nothing was dropped"):
            drop_tenant(database, "acme", plan.id)
        assert get_tenant(connection, "acme").status == "suspended"
        drop_tenant(database, "acme", plan_drop(connection, get_tenant(connection, "acme")).id)
        assert "acme" not in [tenant.slug for tenant in list_tenants(connection)]
        assert connection.execute("SELECT to_regnamespace('tenant_acme')").fetchone() == (None,)
        assert not {("acme",), ("acme.read",)} & set(_roles(connection))
        assert len(list_tenants(connection)) == len(erp.tenants) - 1


HOLDS = {
    "LOCK TABLE tenant_acme.catalog_products IN ACCESS EXCLUSIVE MODE": "nothing was dropped",
    "LOCK TABLE public.tenants IN EXCLUSIVE MODE": "nothing was changed",
    "SELECT FROM public.tenants WHERE slug = 'acme' FOR UPDATE": "nothing was changed",
    "INSERT INTO tenant_acme.catalog_categories VALUES ('kept')": "it is archived and dropped in part",
    "SELECT FROM tenant_acme.catalog_products": "it is archived and dropped in part",
    "COMMENT ON SCHEMA tenant_acme IS 'kept'": "it is archived and dropped in part",
}


@pytest.mark.parametrize("statement", HOLDS)
def test_a_drop_that_waits_in_vain_names_who_holds_the_lock(
    statement: str, database: Database, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erpkit.tenants.removal._PATIENCE", 0.2)
    monkeypatch.setattr("erpkit.tenants.registry.WAIT", "200ms")
    with database.connection() as connection:
        plan = plan_drop(connection, set_status(connection, "acme", "suspended"))
    with psycopg.connect(database.conninfo, application_name="month end") as other:
        other.execute("SET statement_timeout TO '1h' /* password=hunter2 */")
        other.execute(statement.encode())
        with pytest.raises(DatabaseError) as caught:
            drop_tenant(database, "acme", plan.id)
        pid = other.info.backend_pid
    assert re.fullmatch(
        rf"tenant acme is in use: could not get a lock in time; held by process {pid} \(postgres, month end, idle in transaction "
        rf"for \d+ s, last statement begun \d+ s ago\); {HOLDS[statement]}: wait for that transaction or end it .*",
        str(caught.value),
    )
    with database.connection() as connection:  # and when it is gone, the drop goes on
        again = plan_drop(connection, get_tenant(connection, "acme"))
        drop_tenant(database, "acme", again.id)
        assert [tenant.slug for tenant in list_tenants(connection)] == ["bluebird"]


def test_a_change_of_status_or_name_that_waits_in_vain_names_who_holds_the_lock(
    database: Database, tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with control characters in it is shown without them."""
    monkeypatch.setattr("erpkit.tenants.registry.WAIT", "200ms")
    login = f"odd\x1b[31m\n{uuid4().hex[:8]}"
    quoted = sql.Identifier(login)
    with database.connection() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN; GRANT ALL ON public.tenants TO {}").format(quoted, quoted))
        with psycopg.connect(database.conninfo, user=login) as other:
            other.execute("SELECT FROM public.tenants WHERE slug = 'acme' FOR UPDATE")
            for change in (
                lambda: set_status(connection, "acme", "suspended"),
                lambda: rename_tenant(database, "acme", "apex"),
            ):
                with pytest.raises(
                    DatabaseError, match=r"held by process \d+ \(odd\\x1b\[31m\\n.*, unnamed, idle in tr"
                ) as caught:
                    change()
                assert str(caught.value).isprintable()
        connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(quoted, quoted))
        assert list_tenants(connection) == tenants


def test_what_leans_on_a_tenant_from_outside_is_named_and_kept(database: Database, tenants: list[Tenant]) -> None:
    with database.connection() as connection:
        connection.execute("CREATE VIEW public.everything AS SELECT * FROM tenant_acme.sales_orders")
        tenant = set_status(connection, "acme", "suspended")
        plan = plan_drop(connection, tenant)
        with pytest.raises(UsageError, match="tenant acme: everything depend on it"):
            drop_tenant(database, "acme", plan.id)
        assert plan_drop(connection, tenant) == plan


class InterruptedDropError(Exception):
    """Stands for a process that ends half way."""


def test_a_drop_that_was_interrupted_is_completed_by_the_next(database: Database) -> None:
    def stop(_: object) -> None:
        raise InterruptedDropError

    create_tenant(database, [], "acme")
    with database.connection() as connection:
        connection.execute(
            "DO $$ BEGIN FOR n IN 1..120 LOOP EXECUTE format('CREATE TABLE tenant_acme.t%s (id int)', n); END LOOP; END $$"
        )
        plan = plan_drop(connection, set_status(connection, "acme", "suspended"))
        with pytest.raises(InterruptedDropError):
            drop_tenant(database, "acme", plan.id, progress=stop)
        left = plan_drop(connection, get_tenant(connection, "acme"))
        assert (len(left.rows), left.tenant.status) == (70, "archived")
        with pytest.raises(PlanChangedError):
            drop_tenant(database, "acme", plan.id)
        assert [len(batch) for batch in drop_tenant(database, "acme", left.id).batches] == [50, 20]
        assert (list_tenants(connection), _roles(connection)) == ([], [])


@pytest.fixture
def small_server() -> Iterator[Database]:
    """A server whose lock table is too small for a big schema."""
    home = SCRATCH / f"erpkit-small-{uuid4().hex[:8]}"  # as root, the server's user must be able to walk to it
    server = EmbeddedServer(home)
    server.start()
    server.stop()
    with (server.data / "postgresql.auto.conf").open("a") as settings:
        settings.write("max_locks_per_transaction = 10\nmax_connections = 20\n")
    server.start()
    with Database(server.url(), "small") as database:
        yield database
    server.stop()
    shutil.rmtree(home)


def test_a_schema_too_big_for_the_lock_table_is_dropped_in_batches(small_server: Database) -> None:
    create_tenant(small_server, [], "acme")
    with small_server.connection() as connection:
        for start in range(0, 1000, 100):
            connection.execute(
                f"DO $$ BEGIN FOR n IN {start}..{start + 99} LOOP EXECUTE format("
                "'CREATE TABLE tenant_acme.t%s (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                "up int REFERENCES tenant_acme.t%s, word text)', n, greatest(n - 1, 0)); END LOOP; END $$"
            )
        with pytest.raises(psycopg.errors.OutOfMemory, match="shared memory"):
            connection.execute("DROP SCHEMA tenant_acme CASCADE")
        plan = plan_drop(connection, set_status(connection, "acme", "suspended"))
        result = drop_tenant(small_server, "acme", plan.id)
        assert (result.dropped_count, {len(batch) for batch in result.batches}) == (1000, {50})
        assert list_tenants(connection) == []


def test_of_two_processes_that_create_one_tenant_one_succeeds_and_the_other_says_why(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "tenants", "create", "acme"]
    processes = [subprocess.Popen(command, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2]
    (refusal,) = [error for rows, error in outputs if not rows]
    assert [line for line in refusal.splitlines() if not line.startswith("target: ")] == [refusal.splitlines()[-1]]
    with database.connection() as connection:
        assert [tenant.slug for tenant in list_tenants(connection)] == ["acme"]


def test_a_login_that_is_no_superuser_can_do_all_of_it(
    database: Database, migrations: tuple[Migration, ...], tmp_path: Path
) -> None:
    login = f"operator_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN CREATEROLE; GRANT CREATE ON SCHEMA public TO {login}")
        connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO {login}")
        with Database(psycopg.conninfo.make_conninfo(database.conninfo, user=login), "an operator") as own:
            tenant = create_tenant(own, migrations, "acme")
            with own.tenant_transaction(tenant, write=True) as inside:
                inside.execute(INSERT)
            export_tenant(own, tenant, tmp_path / "acme.erpkit")
            rename_tenant(own, "acme", "apex")
            assert import_tenant(own, tmp_path / "acme.erpkit").tenant.slug == "acme"
            with own.connection() as seen:
                for slug in ("acme", "apex"):
                    plan = plan_drop(seen, set_status(seen, slug, "archived"))
                    drop_tenant(own, slug, plan.id)
                assert (list_tenants(seen), _roles(seen)) == ([], [])
        connection.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")
