"""Nothing is green that was not looked at: every reading command where there is nothing, little or not all to be read.

A list of nothing ends with 0 and says what to do next. A check over nothing, or not over all, ends with 3 and says so. What an
ERP that erpkit did not make cannot have ends with 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import psycopg
import pytest

import erpkit as kit
from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.tenants import list_tenants
from tests.command import erpkit
from tests.conftest import plant_copy
from tests.situations import FOREIGN, analyst_login

UNREAD = "bluebird"
FOREIGN_NAMES = tuple(name.replace('"', "") for name in ("nord-0001", "select"))

# Command, exit code, and words of what it says.
NOTHING = [
    ("tenants list", 0, "erpkit tenants create"),
    ("tenants inspect", 3, "no tenants"),
    ("tenants drift", 3, "no tenants"),
    ("migrate status", 3, "no tenants"),
    ("migrate plan", 3, "no tenants"),
    ("migrate history", 0, "migrated nothing"),
    ("events list acme", 2, "acme"),
    ("events lag", 3, "no tenants"),
    ("events dispatch --once", 3, "no tenant is active, so nothing was done", "erpkit tenants create NAME"),
    ("events replays", 0, "replay"),
    ("events shadows", 0, "shadow"),
    ("events dead-letters list", 3, "no tenants"),
    ("events dead-letters count", 3, "no tenants"),
    ("events dead-letters retry", 3, "no tenants"),
    ("runs", 0, "erpkit run NOTEBOOK"),
    ("queries check", 3, "no tenants"),
    ("modules list", 0, "billing"),
    ("modules check", 3, "not read"),
    ("mcp --list", 0, "sales_list_orders"),
]
NO_MODULES = [
    ("modules list", 0, "ERPKIT_MODULES"),
    ("modules check", 3, "no modules"),
    ("queries check", 3, "no modules"),
    ("tenants list", 0, "erpkit tenants create"),
    ("tenants inspect", 3, "no tenants"),
    ("events lag", 2, "ERPKIT_MODULES"),
    ("migrate status", 2, "ERPKIT_MODULES"),
    ("migrate plan", 2, "ERPKIT_MODULES"),
    ("mcp --list", 0, "No module offers a tool"),
]
WITHOUT_A_ROW = [
    ("tenants list", 0, "ERPKIT_TENANTS_QUERY gives no row"),
    ("tenants inspect", 3, "no tenants"),
    ("tenants drift", 3, "no tenants"),
    ("queries check", 3, "no tenants"),
]
IN_ANOTHER_ERP = [
    ("tenants list", 0, *FOREIGN_NAMES),
    ("tenants inspect", 0, *FOREIGN_NAMES),
    ("tenants drift", 0, "3"),
    ("migrate status", 3, "no module has migrations"),
    ("migrate plan", 3, "no module has migrations"),
    ("migrate history", 0, "migrated nothing"),
    ("events list select", 2, "no event log"),
    ("events lag", 2, "no event log"),
    ("events replays", 2, "no event log"),
    ("events shadows", 2, "no event log"),
    ("events dead-letters list", 2, "no event log"),
    ("events dead-letters count", 2, "no event log"),
    ("runs", 0, "No run was recorded"),
    ("queries check", 3, "no modules"),
    ("modules list", 0, "ERPKIT_MODULES"),
    ("modules check", 3, "no modules"),
    ("mcp --list", 0, "No module offers a tool"),
]
WITH_ONE_UNREAD = [
    ("tenants list", 0, "acme", UNREAD),
    ("tenants inspect", 3, "acme", UNREAD, "GRANT"),
    ("tenants drift", 3, "cobalt"),  # the catalog of a schema is open to all
    ("migrate status", 3, "acme", UNREAD, "GRANT"),
    ("migrate plan", 3, UNREAD, "GRANT"),
    ("migrate history", 0, "cobalt"),
    ("events list acme", 0, "sales.OrderPlaced"),
    (f"events list {UNREAD}", 1, UNREAD, "GRANT"),
    ("events lag", 3, UNREAD, "GRANT"),
    ("events replays", 3, UNREAD, "GRANT"),
    ("events shadows", 0, "shadow"),  # by the names of schemas, which are open to all
    ("events dead-letters list", 3, "acme", UNREAD, "GRANT"),
    ("events dead-letters count", 3, "acme", UNREAD, "GRANT"),
    ("runs", 0, "No run was recorded"),
    ("queries check", 3, UNREAD, "GRANT"),
    ("modules list", 0, "billing"),
    ("modules check", 0, "load order"),
    ("mcp --list", 0, "sales_list_orders"),
]
Expected = tuple[object, ...]


@pytest.fixture(scope="module")
def unread(shared_database: Database, registry: Registry) -> Iterator[dict[str, str]]:
    """An analyst's login that may read all tenants but one."""
    plant_copy(shared_database, registry)
    with shared_database.connection() as connection:
        (tenant,) = [each for each in list_tenants(connection) if each.slug == UNREAD]
    with analyst_login(shared_database, "reads_all_but_one", tenant) as environ:
        yield environ


def _by_command(expected: Sequence[Expected]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("expected", expected, ids=lambda each: str(each[0]))


def _assert_ends(expected: Expected, environ: dict[str, str]) -> None:
    command, code, *words = expected
    done = erpkit(*str(command).split(), **environ)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert (done.returncode, [word for word in words if str(word) not in said]) == (code, []), said


@_by_command(NOTHING)
def test_over_nothing_a_list_gives_a_hint_and_a_check_is_not_green(expected: Expected, nothing: dict[str, str]) -> None:
    _assert_ends(expected, nothing)


@_by_command(NO_MODULES)
def test_without_modules_a_list_gives_a_hint_and_a_check_is_not_green(
    expected: Expected, nothing: dict[str, str]
) -> None:
    _assert_ends(expected, {"ERPKIT_DATABASE": nothing["ERPKIT_DATABASE"]})


def test_without_modules_tenants_are_inspected_as_far_as_that_goes(
    unread: dict[str, str], shared_database: Database
) -> None:
    environ = {"ERPKIT_DATABASE": shared_database.conninfo}
    (acme,) = json.loads(erpkit("tenants", "inspect", "acme", "--json", **environ).stdout)["tenants"]
    assert (acme["size"] > 0, acme["drift"], acme["pending"], acme["backlog"]) == (True, [], None, None)
    for alone in (["acme"], []):
        done = erpkit("tenants", "inspect", *alone, "-o", "table", **environ)
        assert (done.returncode, "see ERPKIT_MODULES" in done.stdout) == (3, True), done.stdout


@_by_command(WITHOUT_A_ROW)
def test_of_another_erp_without_tenants_no_remedy_is_named_that_it_refuses(
    expected: Expected, foreign: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {**foreign, "ERPKIT_TENANTS_QUERY": "SELECT 'a' AS slug, 'b' AS schema_name WHERE false"}
    _assert_ends(expected, environ)
    assert "tenants create" not in erpkit(*str(expected[0]).split(), **environ).stdout
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with kit.open() as erp:
        assert "ERPKIT_TENANTS_QUERY gives no row" in str(erp)
        assert "tenants create" not in str(erp)


def test_of_another_erp_there_are_no_figures_of_what_it_does_not_have(foreign: dict[str, str]) -> None:
    found = json.loads(erpkit("tenants", "inspect", "--json", **foreign).stdout)["tenants"]
    assert [(one["pending"], one["events"], one["dead_letters"], one["backlog"]) for one in found] == [(None,) * 4] * 3
    assert [one["drift"] for one in found] == [[], [], []]
    shown = erpkit("tenants", "inspect", **foreign).stdout
    assert "select" in shown
    assert not [head for head in ("pending", "events", "dead letters", "backlog") if head in shown]


@_by_command(IN_ANOTHER_ERP)
def test_of_another_erp_what_it_has_is_read_and_what_it_cannot_have_is_refused(
    expected: Expected, foreign: dict[str, str]
) -> None:
    _assert_ends(expected, foreign)


@_by_command(WITH_ONE_UNREAD)
def test_a_tenant_that_may_not_be_read_is_named_with_the_others_beside_it(
    expected: Expected, unread: dict[str, str]
) -> None:
    _assert_ends(expected, unread)


def test_inspection_reads_drift_as_the_command_for_it_does_without_rights_on_the_template(
    unread: dict[str, str], shared_database: Database
) -> None:
    with shared_database.connection() as connection:
        (acme,) = [each for each in list_tenants(connection) if each.slug == "acme"]
        connection.execute(
            f'CREATE ROLE reads_one LOGIN; GRANT "{acme.reader}" TO reads_one; '
            "GRANT SELECT ON public.tenants, public.erpkit_migrations TO reads_one; "
            "ALTER TABLE tenant_acme.sales_orders ADD COLUMN by_hand int".encode()
        )
    environ = {
        **unread, "ERPKIT_DATABASE": psycopg.conninfo.make_conninfo(shared_database.conninfo, user="reads_one")
    }  # fmt: skip
    try:
        (found,) = json.loads(erpkit("tenants", "inspect", "acme", "--json", **environ).stdout)["tenants"]
        compared = json.loads(erpkit("tenants", "drift", "acme", "--json", **environ).stdout)
        assert len(found["drift"]) == len(compared) > 0
        done = erpkit("tenants", "repair", "acme", **environ)
        assert (done.returncode, "permission denied" in done.stderr, "GRANT" in done.stderr) == (2, True, True), (
            done.stderr
        )
    finally:
        with shared_database.connection() as connection:
            connection.execute(
                "DROP OWNED BY reads_one; DROP ROLE reads_one; ALTER TABLE tenant_acme.sales_orders DROP by_hand"
            )


def test_reading_another_erp_leaves_nothing_behind_in_it(foreign: dict[str, str]) -> None:
    tables = (
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema$)' ORDER BY 1, 2"
    )
    with Database(foreign["ERPKIT_DATABASE"], "foreign") as database, database.connection() as connection:
        assert connection.execute(tables).fetchall() == [(schema, "invoices") for schema in sorted(FOREIGN)]
