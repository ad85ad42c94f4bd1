"""What a login can do that is a member of the group of analysts and nothing else, and one that may read some tenants only."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from uuid import uuid4

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import ANALYSTS, Connection, Database, Tenant, grant_analysts
from erpkit.errors import DatabaseError
from erpkit.modules import Registry
from erpkit.sample.demo import Planted
from erpkit.tenants import across, find_drift, list_tenants
from tests.command import erpkit
from tests.conftest import plant_copy

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def planted(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(scope="module")
def tenants(shared_database: Database, planted: Planted) -> list[Tenant]:
    with shared_database.connection() as connection:
        return list_tenants(connection)


@pytest.fixture(params=["NOINHERIT", "INHERIT"])
def either(shared_database: Database, planted: Planted, request: pytest.FixtureRequest) -> Iterator[str]:
    """The connection string of a login that is an analyst and nothing else, and inherits the group's rights or not."""
    with shared_database.connection() as connection:
        yield from _login(connection, shared_database, f"LOGIN {request.param}", [ANALYSTS])


@pytest.fixture
def analyst(shared_database: Database, planted: Planted) -> Iterator[str]:
    """The connection string of a login that is an analyst and nothing else."""
    with shared_database.connection() as connection:
        yield from _login(connection, shared_database, "LOGIN NOINHERIT", [ANALYSTS])


@pytest.fixture
def auditor(shared_database: Database, tenants: list[Tenant]) -> Iterator[str]:
    """The connection string of a login that may list all tenants, and read the first two."""
    with shared_database.connection() as connection:
        readers = [f'"{tenant.reader}"' for tenant in tenants[:2]]
        yield from _login(
            connection, shared_database, "LOGIN NOINHERIT", readers, "GRANT SELECT ON public.tenants TO {}"
        )


def _login(connection: Connection, database: Database, how: str, roles: list[str], more: str = "") -> Iterator[str]:
    login = f"reads_{uuid4().hex[:8]}"
    connection.execute(f"CREATE ROLE {login} {how}; GRANT {', '.join(roles)} TO {login}; {more.format(login)}".encode())
    yield psycopg.conninfo.make_conninfo(database.conninfo, user=login)
    connection.execute(f"DROP OWNED BY {login}; DROP ROLE {login}".encode())


def _commands(conninfo: str) -> Run:
    return lambda *arguments: erpkit(*arguments, ERPKIT_DATABASE=conninfo, ERPKIT_MODULES="erpkit.sample")


COMMANDS = [
    "tenants list", "tenants inspect", "tenants inspect acme", "tenants drift", "migrate status", "migrate plan", "migrate history",
    "events list acme", "events lag", "events replays", "events replay --topic billing.*", "events shadows", "events watermill",
    "events dead-letters list", "events dead-letters count", "events dead-letters retry", "runs", "queries check", "modules check",
    "mcp --list",
]  # fmt: skip


def _told(text: str) -> list[str]:
    """Return the lines without the target; of an inspection without figures, some of which PostgreSQL's statistics bring late."""
    lines = [line for line in text.splitlines() if not line.startswith("target: ")]
    if not any("dead rows" in line for line in lines):
        return lines
    return [" ".join(re.sub(r"\d[\d.,:]*|─+", "N", line).split()) for line in lines]


def _forget_looks(database: Database) -> None:
    shutil.rmtree(Settings.from_env().home / "history", ignore_errors=True)
    with database.connection() as connection:
        if connection.execute("SELECT to_regclass('public.erpkit_looks')").fetchone() != (None,):
            connection.execute("DELETE FROM public.erpkit_looks")


def test_an_analyst_is_shown_what_an_operator_is(shared_database: Database, analyst: str) -> None:
    operator, reads = _commands(shared_database.conninfo), _commands(analyst)
    with shared_database.connection() as connection:  # or a vacuum between two looks would clear dead rows away
        connection.execute("VACUUM")
    for command in COMMANDS:
        expected = operator(*command.split())
        _forget_looks(shared_database)  # or the second of two inspections would tell more than the first
        found = reads(*command.split())
        _forget_looks(shared_database)
        assert "denied" not in found.stdout + found.stderr, command
        assert _told(found.stdout) == _told(expected.stdout), command
        assert found.returncode == expected.returncode, command


def test_nothing_else_opens_to_an_analyst(either: str, tenants: list[Tenant]) -> None:
    acme = tenants[0]
    refused = [
        f"SELECT FROM {acme.schema}.sales_orders",
        f"INSERT INTO {acme.schema}.catalog_categories VALUES ('x')",
        "INSERT INTO _template.catalog_categories VALUES ('x')",
        "CREATE TABLE _template.mine (id int)",
        "UPDATE public.tenants SET status = 'archived'",
        "DELETE FROM public.erpkit_migrations",
        "SELECT FROM pg_authid",
        "SELECT pg_read_file('postgresql.conf')",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        f'SET ROLE "{acme.role}"',
        f"SET ROLE \"{acme.reader}\"; INSERT INTO {acme.schema}.catalog_categories VALUES ('x')",
        f'SET ROLE "{acme.reader}"; SELECT FROM {tenants[1].schema}.sales_orders',
        f'SET ROLE "{acme.reader}"; SELECT FROM public.tenants',
    ]
    with Database.open(Settings(database=either)) as database:
        for statement in refused:
            with database.connection() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        with (
            pytest.raises(DatabaseError, match="permission denied to set role"),
            database.tenant_transaction(acme, write=True),
        ):
            pass


def test_a_login_that_may_read_two_of_four_tenants_reads_these_and_is_told_what_the_others_need(
    auditor: str, tenants: list[Tenant]
) -> None:
    reads = _commands(auditor)
    others = {tenant.slug: f'GRANT "{tenant.reader}" TO' for tenant in tenants[2:]}
    counts = reads("events", "dead-letters", "count", "--json")
    assert counts.returncode == 3
    unread = {one["tenant"]: one["error"] for one in json.loads(counts.stdout) if one["handler"] is None}
    assert {slug: others[slug] in unread[slug] for slug in unread} == dict.fromkeys(others, True)
    found = {one["slug"]: one for one in json.loads(reads("tenants", "inspect", "--json").stdout)["tenants"]}
    assert all("rows" not in found[tenant.slug]["errors"] for tenant in tenants[:2])
    assert all(others[slug] in found[slug]["errors"]["rows"] for slug in others)
    for command in ("tenants inspect", "migrate status", "migrate plan", "events dead-letters list", "queries check"):
        done = reads(*command.split(), "-o", "table")
        assert done.returncode == 3, command
        named = [line for line in done.stdout.splitlines() if line.startswith("! ")]
        assert any(line.startswith("! cobalt: ") and others["cobalt"] in line for line in named), command
    with Database.open(Settings(database=auditor)) as database:
        result = across(
            database, "SELECT count(*) AS orders FROM sales_orders", tenants=[t for t in tenants if t.is_active]
        )
    assert (set(result.frame["tenant"]), set(result.errors)) == ({"acme", "bluebird"}, {"cobalt"})


def test_a_login_without_any_right_is_told_what_to_grant(shared_database: Database, planted: Planted) -> None:
    with shared_database.connection() as connection:
        for conninfo in _login(connection, shared_database, "LOGIN", ["pg_signal_backend"]):
            done = _commands(conninfo)("tenants", "inspect")
            assert done.returncode == 1
            assert f"GRANT {ANALYSTS} TO" in done.stderr


def test_what_an_earlier_erpkit_did_not_grant_is_granted_by_the_next_command_of_an_operator(
    shared_database: Database, tenants: list[Tenant]
) -> None:
    may_read = "SELECT has_table_privilege(%s, 'public.erpkit_migrations', 'SELECT'), has_schema_privilege(%s, '_template', 'USAGE')"
    with shared_database.connection() as connection:
        connection.execute(
            f"REVOKE SELECT ON public.erpkit_migrations FROM {ANALYSTS}; REVOKE USAGE ON SCHEMA _template FROM {ANALYSTS}; "
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA _template REVOKE SELECT ON TABLES FROM {ANALYSTS}"
        )
        plan = json.loads(_commands(shared_database.conninfo)("migrate", "plan", "--tenant", "acme", "--json").stdout)
        _commands(shared_database.conninfo)("migrate", "up", "--tenant", "acme", "--confirm", plan["id"])
        assert connection.execute(may_read, [ANALYSTS, ANALYSTS]).fetchone() == (True, True)
        with connection.transaction(force_rollback=True):
            connection.execute("CREATE TABLE _template.later (id int)")
            row = connection.execute(
                "SELECT has_table_privilege(%s, '_template.later', 'SELECT')", [ANALYSTS]
            ).fetchone()
            assert row == (True,)
        grant_analysts(connection)  # a second time changes nothing
        assert find_drift(connection, tenants[:1]) == {"acme": []}  # the template's own grants are no model for tenants
