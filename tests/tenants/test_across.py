"""One query over all tenants: the rows, the dtypes, and everything that may not happen."""

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pandas
import psycopg
import pytest

from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import UsageError
from erpkit.migrations import Migration
from erpkit.tenants import across, create_tenant, set_status
from tests.conftest import _new_database

_LONG = "SELECT count(*) AS n FROM generate_series(1, 100000) a, generate_series(1, 100000) b"


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    yield from _new_database(server)


@pytest.fixture(scope="module")
def tenants(shared: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    """Five tenants; each has its own name as the only category."""
    made = [create_tenant(shared, migrations, slug) for slug in ("acme", "bluebird", "cobalt", "delta", "elm")]
    for tenant in made:
        with shared.tenant_transaction(tenant, write=True) as connection:
            connection.execute("INSERT INTO catalog_categories VALUES (%s)", [tenant.slug])
    return made


def test_every_tenants_rows_come_with_its_name_in_order(shared: Database, tenants: list[Tenant]) -> None:
    result = across(shared, "SELECT name FROM catalog_categories", tenants=tenants)
    assert list(result.frame.itertuples(index=False, name=None)) == [(t.slug, t.slug) for t in tenants]
    assert (result.errors, result.truncated, result.skipped) == ({}, (), {})


def test_dtypes_hold_values_without_loss(shared: Database, tenants: list[Tenant]) -> None:
    query = (
        "SELECT 9007199254740993::bigint AS big, NULL::int AS none, 1.10::numeric AS money, now() AS at, "
        "'{\"a\": [1]}'::jsonb AS data, "
        "true AS yes, 'x'::text AS word, gen_random_uuid() AS id, date '2026-02-03' AS day, ARRAY[1, 2] AS list, 0.5::float8 AS half"
    )
    frame = across(shared, query, tenants=tenants).frame
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "tenant": "str", "big": "Int64", "none": "Int64", "money": "object", "at": "datetime64[us, UTC]", "data": "object",
        "yes": "boolean", "word": "str", "id": "object", "day": "object", "list": "object", "half": "Float64",
    }  # fmt: skip
    first = frame.iloc[0]
    assert first["big"] == 9007199254740993
    assert first["none"] is pandas.NA
    assert isinstance(first["money"], Decimal)
    assert str(first["money"]) == "1.10"
    assert first["data"] == {"a": [1]}
    assert isinstance(first["id"], UUID)
    assert math.isclose(float(first["half"]), 0.5)


def test_no_rows_still_have_columns_and_dtypes(shared: Database, tenants: list[Tenant]) -> None:
    frame = across(shared, "SELECT 1 AS n WHERE false", tenants=tenants).frame
    assert (list(frame.columns), len(frame), str(frame["n"].dtype)) == (["tenant", "n"], 0, "Int64")


def test_parameters_are_values_and_never_sql(shared: Database, tenants: list[Tenant]) -> None:
    name = "x' OR true --"
    assert len(across(shared, "SELECT 1 FROM catalog_categories WHERE name = %s", [name], tenants=tenants).frame) == 0
    frame = across(
        shared, "SELECT name FROM catalog_categories WHERE name LIKE %(p)s", {"p": "a%"}, tenants=tenants
    ).frame
    assert list(frame["name"]) == ["acme"]
    with pytest.raises(UsageError, match="parameters do not fit"):
        across(shared, "SELECT %s, %s", [1], tenants=tenants)


def test_a_tenant_that_fails_is_named_beside_the_rows_of_the_others(shared: Database, tenants: list[Tenant]) -> None:
    ghost = Tenant("ghost", "tenant_ghost")
    query = "SELECT 1 / (name <> 'cobalt')::int AS n FROM catalog_categories"
    result = across(shared, query, tenants=[*tenants, ghost])
    assert sorted(result.frame["tenant"]) == ["acme", "bluebird", "delta", "elm"]
    assert result.errors["cobalt"] == "division by zero"
    assert "no schema tenant_ghost" in result.errors["ghost"]


def test_a_failure_in_all_tenants_is_shown_as_one_cause(shared: Database, tenants: list[Tenant]) -> None:
    lines = repr(across(shared, "SELECT * FROM nowhere", tenants=tenants)).splitlines()
    assert (lines[0], len(lines)) == ("no rows", 2)
    assert lines[1].startswith(f'! {len(tenants)} tenants: relation "nowhere" does not exist')


def test_a_suspended_tenant_is_skipped_and_says_so(shared: Database, tenants: list[Tenant]) -> None:
    with shared.connection() as connection:
        asleep = set_status(connection, "elm", "suspended")
        result = across(shared, "SELECT 1 AS n", tenants=[*tenants[:4], asleep])
        set_status(connection, "elm", "active")
    assert (len(result.frame), result.skipped) == (4, {"elm": "suspended"})


def test_a_limit_holds_for_each_tenant_and_says_who_had_more(shared: Database, tenants: list[Tenant]) -> None:
    query = "SELECT n FROM generate_series(1, CASE current_schema() WHEN 'tenant_acme' THEN 9 ELSE 2 END) n;  "
    result = across(shared, query, tenants=tenants, limit=3)
    assert dict(result.frame["tenant"].value_counts()) == {"acme": 3, "bluebird": 2, "cobalt": 2, "delta": 2, "elm": 2}
    assert result.truncated == ("acme",)


def test_time_is_limited_for_all_tenants_together(shared: Database, tenants: list[Tenant]) -> None:
    started = time.monotonic()
    result = across(shared, _LONG, tenants=tenants, timeout=0.3)
    assert time.monotonic() - started < 60  # and not the many minutes that it would take
    assert set(result.errors) == {tenant.slug for tenant in tenants}


def test_time_is_limited_however_many_statements_are_under_way(shared: Database, tenants: list[Tenant]) -> None:
    many = [replace(tenants[n % 5], slug=f"n{n}") for n in range(300)]
    started = time.monotonic()
    result = across(shared, _LONG, tenants=many, timeout=0.2)
    assert time.monotonic() - started < 60
    assert len(result.errors) == 300
    assert len(across(shared, "SELECT 1 AS n", tenants=tenants).frame) == 5


def test_the_server_itself_holds_the_limits(shared: Database, tenants: list[Tenant]) -> None:
    query = "SELECT current_setting('statement_timeout') AS held, generate_series(1, 1000000000) AS n"
    result = across(shared, query, tenants=tenants[:1], limit=3, timeout=7)
    assert len(result.frame) == 3
    assert result.frame["held"][0].startswith(("6", "7"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT n FROM generate_series(1, 9) n ORDER BY n LIMIT 4",
        "SELECT n FROM generate_series(1, 9) n ORDER BY n OFFSET 2 ROWS FETCH FIRST 4 ROWS ONLY",
        "WITH few AS (SELECT n FROM generate_series(1, 4) n) SELECT n FROM few ORDER BY n -- to the end",
        "VALUES (1), (2), (3), (4);",
        "(SELECT 1 AS n) UNION ALL (SELECT 2 LIMIT 1) UNION ALL SELECT generate_series(3, 4)",
        "SELECT 1 AS n UNION ALL SELECT generate_series(2, 4)",
        "SELECT n FROM generate_series(1, 4) n; -- to the end",
    ],
)
def test_a_query_may_have_any_ending_of_its_own(shared: Database, tenants: list[Tenant], query: str) -> None:
    result = across(shared, query, tenants=tenants[:1], limit=3)
    assert (len(result.frame), result.truncated) == (3, ("acme",))


def test_a_connection_that_dies_is_told_for_the_tenants_it_owed(shared: Database, tenants: list[Tenant]) -> None:
    active = [tenant.slug for tenant in tenants if tenant.is_active]
    with psycopg.connect(shared.conninfo) as holder:
        holder.execute("LOCK TABLE tenant_acme.catalog_categories")
        killer = threading.Thread(target=_kill_who_waits, args=[holder])
        killer.start()
        result = across(shared, "SELECT name FROM catalog_categories", tenants=tenants)
        killer.join()
    assert set(result.errors) == {active[0], active[3]}  # of three connections, one has these two
    assert not across(shared, "SELECT 1 AS n", tenants=tenants).errors


def _kill_who_waits(holder: psycopg.Connection[tuple[object, ...]]) -> None:
    waiting = "NOT granted AND relation = 'tenant_acme.catalog_categories'::regclass"
    query = f"SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE {waiting}"
    while holder.execute(query).fetchall() == []:
        pass


def test_tenants_whose_schemas_differ_get_the_columns_of_all(shared: Database, tenants: list[Tenant]) -> None:
    with shared.connection() as connection:
        connection.execute("ALTER TABLE tenant_delta.catalog_categories ADD extra int DEFAULT 7")
    frame = across(shared, "SELECT * FROM catalog_categories", tenants=tenants).frame
    with shared.connection() as connection:
        connection.execute("ALTER TABLE tenant_delta.catalog_categories DROP extra")
    assert list(frame.columns) == ["tenant", "name", "extra"]
    assert list(frame.dropna()["tenant"]) == ["delta"]


def test_every_column_arrives_under_a_name_of_its_own(shared: Database, tenants: list[Tenant]) -> None:
    for limit in (None, 9):
        frame = across(shared, "SELECT 1 a, 2 a, 3 AS a_2, 4 AS tenant, 5", tenants=tenants[:1], limit=limit).frame
        assert frame.to_dict("list") == {
            "tenant": ["acme"], "a": [1], "a_3": [2], "a_2": [3], "tenant_2": [4], "?column?": [5]
        }  # fmt: skip
        unnamed = across(shared, "SELECT 1 AS tenant", tenants=tenants[:1], limit=limit, named=False).frame
        assert unnamed.to_dict("list") == {"tenant": [1]}


def test_a_tenant_given_twice_is_asked_once(shared: Database, tenants: list[Tenant]) -> None:
    frame = across(shared, "SELECT 1 AS n", tenants=[*tenants[:2], tenants[0]]).frame
    assert list(frame["tenant"]) == ["acme", "bluebird"]


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO catalog_categories VALUES ('x')",
        "DELETE FROM catalog_categories",
        "COMMIT",
        "RESET ROLE",
        "SET search_path TO tenant_bluebird",
        "DO $$ BEGIN RESET ROLE; END $$",
        "BEGIN",
        "commit; DROP SCHEMA tenant_acme CASCADE",
        "/* SELECT */ UPDATE catalog_categories SET name = 'x'",
        "EXPLAIN ANALYZE DELETE FROM catalog_categories",
        "CALL nothing()",
        "COPY catalog_categories TO PROGRAM 'true'",
        "SELECT set_config('role', 'postgres', false)",
        "SELECT \"set_config\"('search_path', 'tenant_bluebird', false)",
        "SELECT query_to_xml('SELECT set_' || 'config(''role'', ''none'', true)', true, false, '')",
        "SELECT U&\"set\\005fconfig\"('role', 'none', true)",
        "-- a comment\nDROP TABLE catalog_categories",
        "",
        "WITH gone AS (DELETE FROM catalog_categories RETURNING 1) SELECT * FROM gone",
        "SELECT 1; DELETE FROM catalog_categories",
        "SELECT 1; COMMIT; RESET ROLE; DELETE FROM tenant_bluebird.catalog_categories",
        "SELECT 1) x; COMMIT; DROP SCHEMA tenant_acme CASCADE; SELECT * FROM (SELECT 1",
        "SELECT 1) LIMIT 1; DELETE FROM catalog_categories; (SELECT 1",
        "SELECT nextval('erpkit_events_offset_seq')",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT 1 INTO taken",
        "SELECT n FROM generate_series(1, 4) n FOR UPDATE OF n",
        "SELECT json_value(((SELECT payload FROM erpkit_events) FOR UPDATE), '$.a')",
        "SELECT json_array(SELECT 1 FROM erpkit_events FOR SHARE)",
        "SELECT json_query((WITH d AS (DELETE FROM erpkit_events RETURNING payload) TABLE d), '$' WITH WRAPPER)",
        "SELECT json_value(json_query((SELECT jsonb '{}' INTO taken), '$'), '$.a' DEFAULT 1 ON EMPTY)",
        "SELECT lo_creat(-1)",
    ],
)
def test_what_does_not_read_is_refused_before_it_is_sent(shared: Database, tenants: list[Tenant], query: str) -> None:
    with pytest.raises(UsageError):
        across(shared, query, tenants=tenants)


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize("query", ["SELECT * FROM tenant_bluebird.catalog_categories", "SELECT * FROM public.tenants"])
def test_what_reads_elsewhere_is_refused_by_the_tenants_role(
    shared: Database, tenants: list[Tenant], query: str, limit: int | None
) -> None:
    result = across(shared, query, tenants=tenants[:1], limit=limit)
    assert "permission denied" in result.errors["acme"]


@pytest.mark.parametrize("limit", [None, 100])
def test_a_missing_right_names_its_grant_and_what_is_not_the_tenants_names_none(
    shared: Database, tenants: list[Tenant], limit: int | None
) -> None:
    reader = tenants[0].reader

    def error(query: str) -> str:
        return across(shared, query, tenants=tenants[:1], limit=limit).errors["acme"]

    assert error("TABLE tenant_bluebird.catalog_categories") == "permission denied for schema tenant_bluebird"
    assert error("TABLE pg_authid") == "permission denied for table pg_authid"
    assert error("SELECT current_setting('data_directory')") == 'permission denied to examine "data_directory"'
    with shared.connection() as connection:
        connection.execute(f'REVOKE SELECT ON tenant_acme.catalog_categories FROM "{reader}"'.encode())
    try:
        assert error("TABLE catalog_categories") == (
            f'permission denied for table catalog_categories: GRANT SELECT ON ALL TABLES IN SCHEMA "tenant_acme" TO "{reader}"'
        )
    finally:
        with shared.connection() as connection:
            connection.execute(f'GRANT SELECT ON tenant_acme.catalog_categories TO "{reader}"'.encode())


def test_nothing_of_a_sweep_stays_on_a_connection(shared: Database, tenants: list[Tenant]) -> None:
    across(shared, "SELECT 1 / 0", tenants=tenants)
    across(shared, _LONG, tenants=tenants, timeout=0.1)
    for _ in range(4):
        with shared.connection() as connection:
            seen = connection.execute(
                "SELECT current_user::text, current_setting('transaction_read_only'), current_setting('search_path')"
            )
            assert seen.fetchone() == ("postgres", "off", '"$user", public')


def test_progress_counts_tenants(shared: Database, tenants: list[Tenant]) -> None:
    done: list[int] = []
    across(shared, "SELECT 1 AS n", tenants=tenants, progress=done.append)
    assert sum(done) == 5


def test_no_tenants_give_an_empty_frame(shared: Database) -> None:
    assert list(across(shared, "SELECT 1 AS n", tenants=[]).frame.columns) == ["tenant"]
