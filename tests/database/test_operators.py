"""Several logins that operate one database, none of them a superuser: what one made, another can change and drop."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo

from erpkit.cli import erpkit
from erpkit.database import Database
from erpkit.database.operators import owner_name
from erpkit.database.rights import Login, mend
from erpkit.errors import DatabaseError, ErpkitError, PlanChangedError
from erpkit.events import dispatch, list_dead_letters
from erpkit.migrations import Migration, plan_down, plan_up, read_applied, read_migrations, run_plan
from erpkit.modules import Module, Registry
from erpkit.sample.demo import place_orders, plant
from erpkit.tenants import (
    HandOverPlan,
    across,
    create_tenant,
    export_tenant,
    find_drift,
    get_tenant,
    hand_over,
    import_tenant,
    list_tenants,
    plan_hand_over,
    rename_tenant,
    set_status,
)
from tests.conftest import SMALL

Run = Callable[..., str]


@pytest.fixture
def admin(database: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A superuser's connection, for what only one may do."""
    with psycopg.connect(database.conninfo, autocommit=True) as connection:
        yield connection


class Logins:
    """Logins of one test: `alice` may create roles and schemas, `bob` and `carol` nothing."""

    def __init__(self, database: Database, admin: psycopg.Connection[tuple[object, ...]]) -> None:
        self.names = {name: f"{name}_{uuid4().hex[:8]}" for name in ("alice", "bob", "carol")}
        self._database, self._admin = database, admin
        self.opened: list[Database] = []
        for name in self.names.values():
            admin.execute(f"CREATE ROLE {name} LOGIN".encode())
        self.execute("ALTER ROLE {alice} CREATEROLE; GRANT CREATE ON SCHEMA public TO {alice}")
        self.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO {{alice}}")

    def execute(self, statement: str) -> None:
        self._admin.execute(statement.format(**self.names).encode())

    def open(self, name: str) -> Database:
        self.opened.append(Database(make_conninfo(self._database.conninfo, user=self.names[name]), name))
        return self.opened[-1]

    def drop(self) -> None:
        for database in self.opened:
            database.close()
        for name in self.names.values():
            self._admin.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


@pytest.fixture
def logins(database: Database, admin: psycopg.Connection[tuple[object, ...]]) -> Iterator[Logins]:
    made = Logins(database, admin)
    yield made
    made.drop()


@pytest.fixture
def run(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a login; return its output, and demand its exit code."""

    def run(login: str, command: str, code: int = 0) -> str:
        monkeypatch.setenv("ERPKIT_DATABASE", logins.open(login).conninfo)
        monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
        result = CliRunner().invoke(erpkit, command.split(), standalone_mode=False)
        error = result.exception
        if isinstance(error, ErpkitError):
            assert error.exit_code == code, error
            return str(error)
        if isinstance(error, psycopg.Error):
            assert code == 1
            return "; ".join([str(error), *error.__notes__])
        if error is not None:
            raise error
        assert (result.return_value or 0) == code, result.output
        return result.output

    return run


def _owners(admin: psycopg.Connection[tuple[object, ...]]) -> set[str]:
    """Return who owns the schemas of tenants, and what is in them."""
    rows = admin.execute(
        "WITH own AS (SELECT oid, nspowner FROM pg_namespace WHERE nspname ~ '^(tenant_|_template|erpkit_)') "
        "SELECT pg_get_userbyid(nspowner) FROM own "
        "UNION SELECT pg_get_userbyid(relowner) FROM pg_class JOIN own o ON o.oid = relnamespace "
        "UNION SELECT pg_get_userbyid(typowner) FROM pg_type JOIN own o ON o.oid = typnamespace "
        "UNION SELECT pg_get_userbyid(proowner) FROM pg_proc JOIN own o ON o.oid = pronamespace"
    )
    return {str(name) for (name,) in rows}


def test_what_one_operator_made_another_inspects_migrates_renames_exports_imports_and_drops(
    logins: Logins,
    run: Run,
    admin: psycopg.Connection[tuple[object, ...]],
    registry: Registry,
    migrations: tuple[Migration, ...],
    tmp_path: Path,
) -> None:
    alice, bob = logins.open("alice"), logins.open("bob")
    plant(alice, registry, tenants=4, size=SMALL)
    logins.execute("GRANT erpkit_operator TO {bob}")
    logins.execute(f'GRANT CREATE ON DATABASE {admin.info.dbname} TO "{owner_name(admin.info.dbname)}"')
    with bob.connection() as connection:
        slugs = [tenant.slug for tenant in list_tenants(connection)]
        first = get_tenant(connection, slugs[0])
    run("bob", "tenants inspect", 3)
    run("bob", "tenants drift", 3)
    run("bob", "migrate status", 3)
    with bob.connection() as connection:
        planned = plan_down([first], migrations, read_applied(connection, [first]), "billing", 3)
    assert not run_plan(bob, planned, planned.id).failed
    with bob.connection() as connection:
        planned = plan_up([first], migrations, read_applied(connection, [first]))
    assert not run_plan(bob, planned, planned.id).failed
    place_orders(bob, registry, first, 3, size=SMALL)
    dispatch(bob, first, registry)
    assert len(across(bob, "SELECT count(*) FROM sales_orders", tenants=[first]).frame) == 1
    rename_tenant(bob, first.slug, "apex")
    with bob.connection() as connection:
        apex = get_tenant(connection, "apex")
        assert len(list_dead_letters(connection, [apex])) == 3
    export_tenant(bob, apex, tmp_path / "apex.erpkit")
    assert import_tenant(bob, tmp_path / "apex.erpkit", "again").tenant.slug == "again"
    create_tenant(bob, migrations, "bobs")
    repair = _id("repair", run("bob", f"tenants repair {slugs[1]}", 3))
    run("bob", f"tenants repair {slugs[1]} --confirm {repair}", 3)
    run("bob", "tenants archive apex")
    run("bob", f"tenants drop apex --confirm {_id('drop', run('bob', 'tenants drop apex'))}")

    run("alice", "tenants inspect", 3)
    run("alice", "tenants drift", 3)
    run("alice", "migrate status", 3)
    with alice.connection() as connection:
        fleet = [tenant for tenant in list_tenants(connection) if tenant.is_active]
        planned = plan_up(fleet, migrations, read_applied(connection, fleet))
    assert not run_plan(alice, planned, planned.id).failed
    with alice.connection() as connection:
        place_orders(alice, registry, get_tenant(connection, "again"), 1, seed=7, size=SMALL)
    for slug in ("bobs", "again"):
        with alice.connection() as connection:
            dispatch(alice, get_tenant(connection, slug), registry)
            assert find_drift(connection, [get_tenant(connection, slug)]) == {slug: []}
        rename_tenant(alice, slug, f"{slug}_too")
        with alice.connection() as connection:
            set_status(connection, f"{slug}_too", "archived")
            set_status(connection, f"{slug}_too", "active")
    assert _owners(admin) == {owner_name(admin.info.dbname)}


def test_with_create_that_may_be_granted_another_operator_needs_nothing_but_the_group(
    logins: Logins, admin: psycopg.Connection[tuple[object, ...]], migrations: tuple[Migration, ...]
) -> None:
    logins.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO {{alice}} WITH GRANT OPTION")
    logins.execute("GRANT CREATE ON SCHEMA public TO {alice} WITH GRANT OPTION")
    create_tenant(logins.open("alice"), migrations, "acme")
    logins.execute("GRANT erpkit_operator TO {bob}")
    create_tenant(logins.open("bob"), migrations, "bluebird")
    rows = admin.execute(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    assert rows.fetchall() == [(owner_name(admin.info.dbname),)]


def test_an_error_for_a_missing_right_names_the_grant_and_the_grant_mends_it(
    logins: Logins, run: Run, admin: psycopg.Connection[tuple[object, ...]], migrations: tuple[Migration, ...]
) -> None:
    database, owner = admin.info.dbname, owner_name(admin.info.dbname)
    create_tenant(logins.open("alice"), migrations, "acme")
    carol = logins.names["carol"]
    for command in ("tenants create new", "tenants rename acme apex", "tenants suspend acme", "tenants drop acme"):
        said = run("carol", command, 1)
        assert f"GRANT erpkit_operator TO {carol}" in said, command
        assert len(said.splitlines()) == 1
    logins.execute("GRANT erpkit_operator TO {carol}")
    with pytest.raises(DatabaseError, match=re.escape(f'GRANT CREATE ON DATABASE {database} TO "{owner}"')):
        rename_tenant(logins.open("carol"), "acme", "apex")
    logins.execute(f'GRANT CREATE ON DATABASE {database} TO "{owner}"')
    assert rename_tenant(logins.open("carol"), "acme", "apex").tenant.slug == "apex"


def test_a_first_login_that_may_not_create_roles_is_told_which_right_it_lacks(
    logins: Logins, run: Run, migrations: tuple[Migration, ...]
) -> None:
    carol = logins.names["carol"]
    with pytest.raises(DatabaseError, match=f"permission denied to create role.*ALTER ROLE {carol} CREATEROLE"):
        create_tenant(logins.open("carol"), migrations, "acme")


def test_a_migration_that_needs_more_than_the_operators_have_runs_as_the_login_and_belongs_to_them(
    logins: Logins, admin: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "0001_orders.sql").write_text(
        "-- +goose Up\nCREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
        "currency text REFERENCES public.currencies);\n"
        "CREATE TYPE state AS ENUM ('new');\n"
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';\n-- +goose Down\nDROP TABLE orders;\n"
    )
    migrations = _read(folder)
    alice = logins.open("alice")
    with alice.connection() as connection:
        connection.execute("CREATE TABLE public.currencies (id text PRIMARY KEY)")
    acme = create_tenant(alice, migrations, "acme")
    empty = create_tenant(alice, [], "empty")
    with alice.connection() as connection:
        planned = plan_up([empty], migrations, read_applied(connection, [empty]))
    assert not run_plan(alice, planned, planned.id).failed
    assert _owners(admin) == {owner_name(admin.info.dbname)}
    for tenant in (acme, empty):
        with alice.tenant_transaction(tenant, write=True) as inside:
            inside.execute("INSERT INTO orders DEFAULT VALUES")
        assert list(across(alice, "SELECT count(*) AS n FROM orders", tenants=[tenant]).frame.n) == [1]
    logins.execute("GRANT erpkit_operator TO {bob}")
    (folder / "0002_refused.sql").write_text("-- +goose Up\nALTER TABLE public.currencies ADD name text;\n")
    bob = logins.open("bob")
    with bob.connection() as connection:
        planned = plan_up([empty], _read(folder), read_applied(connection, [empty]))
    (failed,) = run_plan(bob, planned, planned.id).failed
    assert "must be owner of table currencies" in str(failed.error)
    assert "hand-over" in str(failed.error)


def test_a_no_transaction_migration_belongs_to_the_operators_too(
    logins: Logins, admin: psycopg.Connection[tuple[object, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "0001_orders.sql").write_text(
        "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE TABLE orders (id int PRIMARY KEY);\n"
        "CREATE INDEX CONCURRENTLY orders_id ON orders (id);\n"
    )
    alice = logins.open("alice")
    acme = create_tenant(alice, _read(folder), "acme")
    assert _owners(admin) == {owner_name(admin.info.dbname)}
    with alice.tenant_transaction(acme, write=True) as inside:
        inside.execute("INSERT INTO orders VALUES (1)")


def test_what_one_login_made_before_is_handed_over_by_one_planned_command(
    logins: Logins,
    run: Run,
    admin: psycopg.Connection[tuple[object, ...]],
    migrations: tuple[Migration, ...],
    tmp_path: Path,
) -> None:
    with psycopg.connect(admin.info.dsn, user=logins.names["alice"]) as old:
        _create_the_old_way(old, "acme", admin.info.dbname)
    logins.execute("GRANT erpkit_operator TO {bob}")
    assert "hand-over" in run("bob", "tenants create new", 1)
    dry = run("alice", "tenants hand-over")
    assert "ALTER SCHEMA tenant_acme OWNER TO" in dry
    with pytest.raises(PlanChangedError):
        hand_over(logins.open("alice"), "hand-over-0000000000")
    run("alice", f"tenants hand-over --confirm {_id('hand-over', dry)}")
    assert _owners(admin) == {owner_name(admin.info.dbname)}
    assert "nothing to hand over" in run("alice", "tenants hand-over")
    logins.execute(f'GRANT CREATE ON DATABASE {admin.info.dbname} TO "{owner_name(admin.info.dbname)}"')
    logins.execute(f'GRANT CREATE ON SCHEMA public TO "{owner_name(admin.info.dbname)}"')  # for the history

    bob = logins.open("bob")
    with bob.connection() as connection:
        acme = get_tenant(connection, "acme")
        planned = plan_up([acme], migrations, read_applied(connection, [acme]))
    assert not run_plan(bob, planned, planned.id).failed
    with bob.tenant_transaction(acme, write=True) as inside:
        inside.execute("INSERT INTO notes (state) VALUES ('new')")
        inside.execute("SELECT count(*) FROM sales_orders")
    export_tenant(bob, acme, tmp_path / "acme.erpkit")
    rename_tenant(bob, "acme", "apex")
    run("bob", "tenants archive apex")
    run("bob", f"tenants drop apex --confirm {_id('drop', run('bob', 'tenants drop apex'))}")
    assert admin.execute("SELECT FROM pg_roles WHERE rolname LIKE %s", [f"{admin.info.dbname}.%"]).fetchall() == []


def test_what_belongs_to_another_login_is_named_and_left_to_it(
    logins: Logins, run: Run, admin: psycopg.Connection[tuple[object, ...]]
) -> None:
    with psycopg.connect(admin.info.dsn, user=logins.names["alice"]) as old:
        _create_the_old_way(old, "acme", admin.info.dbname)
    admin.execute("CREATE TABLE tenant_acme.of_another (id int)")
    plan = _plan(logins.open("alice"))
    assert plan.left == {"tenant_acme": ("postgres",)}
    hand_over(logins.open("alice"), plan.id)
    assert "something belongs to postgres" in run("alice", "tenants hand-over", 3)
    with Database(admin.info.dsn, "superuser") as superuser:
        plan = _plan(superuser)
        assert [part.statements for part in plan.parts if part.tenant is not None] == [
            (f'ALTER TABLE tenant_acme.of_another OWNER TO "{owner_name(admin.info.dbname)}"',)
        ]
        assert hand_over(superuser, plan.id).failed == {}
    assert _owners(admin) == {owner_name(admin.info.dbname)}


def test_a_schema_that_is_locked_does_not_stop_the_others_from_being_handed_over(
    logins: Logins, admin: psycopg.Connection[tuple[object, ...]]
) -> None:
    with psycopg.connect(admin.info.dsn, user=logins.names["alice"]) as old:
        for slug in ("acme", "other"):
            _create_the_old_way(old, slug, admin.info.dbname)
    alice = logins.open("alice")
    with admin.transaction():
        admin.execute("LOCK TABLE tenant_acme.notes")
        failed = hand_over(alice, _plan(alice).id).failed
    assert list(failed) == ["schema tenant_acme"]
    assert [part.subject for part in _plan(alice).parts] == ["schema tenant_acme"]


def test_a_superuser_hands_over_what_it_made(
    database: Database, logins: Logins, admin: psycopg.Connection[tuple[object, ...]], migrations: tuple[Migration, ...]
) -> None:
    create_tenant(database, migrations, "acme")
    assert _owners(admin) == {"postgres"}
    assert hand_over(database, _plan(database).id).failed == {}
    create_tenant(database, migrations, "later")
    assert _owners(admin) == {owner_name(admin.info.dbname)}
    logins.execute("GRANT erpkit_operator TO {bob}")
    rename_tenant(logins.open("bob"), "acme", "apex")
    with logins.open("bob").connection() as connection:
        tenants = list_tenants(connection)
        assert set(find_drift(connection, tenants)) == {"apex", "later"}
        set_status(connection, "later", "archived")


@pytest.mark.parametrize(
    ("message", "statement"),
    [
        ("permission denied for database erp", 'GRANT CREATE ON DATABASE erp TO "erpkit_operator.erp"'),
        ("permission denied for schema public", 'GRANT USAGE, CREATE ON SCHEMA public TO "erpkit_operator.erp"'),
        ("permission denied to create role", 'ALTER ROLE "erpkit_operator.erp" CREATEROLE'),
        (
            'permission denied to set role "erp.tenant_acme"',
            'GRANT "erp.tenant_acme" TO bob, or erpkit_operator for all tenants',
        ),
        (
            'permission denied to set role "erp.tenant_acme.read"',
            'GRANT "erp.tenant_acme.read" TO bob, or erpkit_analyst for all tenants',
        ),
        ('permission denied to set role "erpkit_operator.erp"', "GRANT erpkit_operator TO bob"),
        ('permission denied to grant role "x y"', 'GRANT "x y" TO bob WITH ADMIN OPTION'),
        ("must be owner of table orders", "run erpkit tenants hand-over as the login that owns it"),
    ],
)
def test_each_missing_right_has_its_statement(message: str, statement: str) -> None:
    assert mend(message, Login("bob", "erp", True, True, "erpkit_operator.erp")) == statement


def _plan(database: Database) -> HandOverPlan:
    with database.connection() as connection:
        return plan_hand_over(connection)


def _id(kind: str, output: str) -> str:
    found = re.search(f"{kind}-[0-9a-f]{{10}}", output)
    assert found is not None, output
    return found[0]


def _read(folder: Path) -> tuple[Migration, ...]:
    return read_migrations([Module(name="shop", migrations=folder)])


def _create_the_old_way(connection: psycopg.Connection[tuple[object, ...]], slug: str, database: str) -> None:
    """Make a tenant whose schema, roles and tables are the login's own, as a login without the group did."""
    role, schema = f'"{database}.tenant_{slug}"', f"tenant_{slug}"
    reader = f'"{database}.tenant_{slug}.read"'
    connection.execute(
        "CREATE TABLE IF NOT EXISTS public.tenants (slug text PRIMARY KEY, schema_name text NOT NULL UNIQUE, role_name text, "
        "name text NOT NULL DEFAULT '', status text NOT NULL DEFAULT 'active', created_at timestamptz NOT NULL DEFAULT now()); "
        f"CREATE ROLE {role} NOLOGIN; CREATE ROLE {reader} NOLOGIN; GRANT {role}, {reader} TO CURRENT_USER; "
        f"GRANT {reader} TO erpkit_analyst; CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO {role}, {reader}; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {reader}; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {role}; "
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO {reader}; "
        f"SET LOCAL search_path TO {schema}; "
        "CREATE TYPE state AS ENUM ('new'); CREATE DOMAIN short AS text; CREATE TYPE pair AS (a int, b int); "
        "CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY, number serial, state state); CREATE VIEW few AS SELECT * FROM notes; "
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM notes; CREATE SEQUENCE own; CREATE STATISTICS more ON id, state FROM notes; "
        "CREATE FUNCTION two(int) RETURNS int LANGUAGE sql AS 'SELECT 2'; CREATE PROCEDURE three() LANGUAGE sql AS 'SELECT 3'; "
        "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int); "
        "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int); "
        "CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1); "
        f"INSERT INTO public.tenants VALUES ('{slug}', '{schema}', '{database}.tenant_{slug}', 'Old')"
    )
    connection.commit()
