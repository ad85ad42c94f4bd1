"""SQL that somebody typed: what reads passes, and what does more is refused by what it reaches on the server."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import erpkit
from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import UsageError
from erpkit.tenants import across
from erpkit.tenants.reading_sql import HARMLESS, Fact, Reach, check_reading, find_problems, find_reach, look_up
from erpkit.tenants.sql_tokens import read_tokens
from erpkit.ui import Explorer
from tests.conftest import _new_database
from tests.tenants.reading_queries import ELSEWHERE, QUERIES

ROLE = Tenant("nord", "nord", "tenant_nord")  # what the guard looks at is only whether there is a role
NORD, SUED = Tenant("nord", "nord"), Tenant("sued", "sued")

TABLES = """
CREATE SCHEMA {0};
CREATE TABLE {0}.catalog_products (sku text PRIMARY KEY, name text, category text, currency text, price numeric);
CREATE TABLE {0}.sales_orders (id int PRIMARY KEY, placed_on date);
CREATE TABLE {0}.sales_order_lines (order_id int);
INSERT INTO {0}.catalog_products VALUES ('a', 'chair', 'seats', 'EUR', 9.5), ('b', 'table', 'boards', 'EUR', 20);
INSERT INTO {0}.sales_orders VALUES (1, '2026-01-01')
"""


@pytest.fixture(scope="module")
def erp(server: EmbeddedServer) -> Iterator[Database]:
    """An ERP that erpkit did not make: two schemas of one login, one that is shared, and functions of its own."""
    for database in _new_database(server):
        with database.connection() as connection:
            for schema in ("nord", "sued"):
                connection.execute(TABLES.format(schema).encode())
            connection.execute(
                """
                CREATE SCHEMA shared; CREATE EXTENSION vector SCHEMA shared; CREATE TABLE shared.rates (rate numeric);
                CREATE FUNCTION shared.run(query text) RETURNS text STABLE LANGUAGE plpgsql AS
                  'DECLARE found text; BEGIN EXECUTE query INTO found; RETURN found; END';
                CREATE FUNCTION nord.run(query text) RETURNS text STABLE RETURN shared.run(query);
                CREATE FUNCTION nord.round(query text) RETURNS text STABLE RETURN shared.run(query);
                CREATE OPERATOR nord.<?> (FUNCTION = nord.run, RIGHTARG = text);
                CREATE OPERATOR shared.~~ (FUNCTION = shared.run, RIGHTARG = text);
                CREATE TYPE shared.answer AS (said text);
                CREATE FUNCTION shared.answer_of(text) RETURNS shared.answer STABLE RETURN ROW(shared.run($1))::shared.answer;
                CREATE CAST (text AS shared.answer) WITH FUNCTION shared.answer_of(text);
                CREATE DOMAIN nord.query AS text CHECK (nord.run(value) IS NOT NULL)
                """
            )
        yield database


@pytest.fixture(scope="module")
def connection(erp: Database) -> Iterator[Connection]:
    with erp.connection() as connection:
        yield connection


def refusal(
    connection: Connection, query: str, *tenants: Tenant, shared: tuple[str, ...] = (), allowed: tuple[str, ...] = ()
) -> str:
    """Return why a query is refused; nothing if it is not."""
    told = ""
    try:
        check_reading(connection, query, tenants or (ROLE,), shared_schemas=shared, allowed_functions=allowed)
    except UsageError as error:
        told = str(error)
    assert "\n" not in told
    return told


@pytest.mark.parametrize("query", QUERIES)
def test_what_reads_passes_and_gives_what_postgresql_gives(erp: Database, query: str) -> None:
    result = across(erp, query, tenants=[SUED])
    assert result.errors == {}
    with erp.tenant_transaction(SUED) as connection:
        assert len(result.frame) == len(connection.execute(query.rstrip("; ").encode()).fetchall())


@pytest.mark.parametrize("query", [*QUERIES, *ELSEWHERE])
def test_what_reads_passes_under_a_role_as_well(connection: Connection, query: str) -> None:
    assert refusal(connection, query, Tenant("sued", "sued", "tenant_sued")) == ""


# The function's name takes the place of {}; each calls it, if its arguments are right.
NOTATIONS = (
    "SELECT {}()",
    "SELECT {}('x', 1)",
    "SELECT pg_catalog.{} (1)",
    "SELECT pg_catalog /* here */ . -- and here\n {}\n('x')",
    "SELECT 1 FROM {}('x') AS f",
    "SELECT 1 FROM ROWS FROM ({}(1), generate_series(1, 2)) AS f",
    "SELECT 1 FROM sales_orders o, LATERAL {}(o.id) AS f",
    "WITH a AS (SELECT {}(1)) SELECT * FROM a",
    "WITH RECURSIVE a (n) AS (SELECT 1 UNION ALL SELECT {}(n) FROM a) SELECT * FROM a",
    "SELECT 1 WHERE {}(1) IS NULL ORDER BY 1",
    "SELECT 1 GROUP BY 1 HAVING {}(1) IS NULL",
    "SELECT count(*) FILTER (WHERE {}(1)) FROM sales_orders",
    "SELECT {}(1) OVER () FROM sales_orders",
    "SELECT CASE WHEN true THEN array[{}(1)] END LIMIT {}(1)",
    "SELECT * FROM (SELECT 'x' AS q) x, {}(q) AS materialized (word, ndoc)",
    "SELECT * FROM (SELECT 'x' AS q) x, {}(q) AS (word text)",
    "SELECT DISTINCT ON (1) {}(1)",
    "SELECT now() AT TIME ZONE {}(1)",
    "SELECT ('x'::text).{}",
    "SELECT (o).{} FROM sales_orders o",
    "SELECT o.{} FROM sales_orders o",
    "SELECT nord.sales_orders.{} FROM nord.sales_orders",
    "SELECT ((ARRAY['x'])[1]).{}",
    "SELECT ((SELECT 'x'::text)).{}.word",
    "VALUES (({}('x')))",
    "EXPLAIN SELECT {}(1)",
)


def _spellings(name: str) -> list[str]:
    mixed = "".join(c.upper() if n % 2 else c for n, c in enumerate(name))
    return [f'"{name}"', *([name, mixed] if name == name.lower() else [])]


@pytest.fixture(scope="module")
def volatile(connection: Connection) -> dict[str, list[Fact]]:
    """What the server knows of each name with a VOLATILE variant."""
    query = "SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'v'"
    names = [name for (name,) in connection.execute(query)]
    facts = look_up(connection, Reach(frozenset(), frozenset(), frozenset(), frozenset(names), casts=False), ["nord"])
    return {name: [fact for fact in facts if fact.name == name] for name in names}


@pytest.mark.parametrize("notation", NOTATIONS)
def test_every_volatile_function_of_the_server_is_refused_in_every_notation_or_harmless(
    volatile: dict[str, list[Fact]], notation: str
) -> None:
    assert len(volatile) > 200
    for name, facts in volatile.items():
        spellings = _spellings(name)
        tokens = read_tokens(notation.replace("{}", spellings[len(name) % len(spellings)]))
        problems = list(find_problems(find_reach(tokens), facts))
        assert (name in HARMLESS) == (problems == []), (name, problems)
        assert all(problem.startswith(f"{name} cannot be used here") for problem in problems)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_a_notation_is_sql_and_is_refused_for_the_function_in_it(connection: Connection, notation: str) -> None:
    assert refusal(connection, notation.replace("{}", "pg_sleep")).startswith("pg_sleep cannot be used here")
    assert refusal(connection, notation.replace("{}", "random")) == ""


def test_the_guard_as_a_whole_refuses_each_of_them(connection: Connection, volatile: dict[str, list[Fact]]) -> None:
    passed = {name for name in volatile if refusal(connection, f'SELECT "{name}"(1)') == ""}
    assert passed == HARMLESS & set(volatile)


@pytest.mark.parametrize(
    "spelling", ["ts_stat", "TS_Stat", '"ts_stat"', 'pg_catalog."ts_stat"', '"pg_catalog" . ts_stat']
)
def test_a_function_is_found_however_its_name_is_written(connection: Connection, spelling: str) -> None:
    assert refusal(connection, f"SELECT * FROM {spelling}('select 1')").startswith("ts_stat cannot be used here")
    assert refusal(connection, f"""SELECT 1 AS a, '{spelling}(1)', $${spelling}(2)$$ -- {spelling}(3)""") == ""


def test_a_function_that_the_public_may_not_call_is_refused(connection: Connection) -> None:
    assert "pg_config" in refusal(connection, "SELECT * FROM pg_config()")


def test_the_known_escape_is_refused_and_names_the_function(erp: Database) -> None:
    escape = (
        "WITH e AS MATERIALIZED (SELECT count(*) n FROM ts_stat('select to_tsvector(set'||'_config(''role'',''none'',true))'))\n"
        "SELECT s.word FROM e, LATERAL ts_stat('select array_to_tsvector(array_agg(o::text)) from sued.sales_orders o' "
        "|| CASE WHEN n>=0 THEN '' ELSE '' END) s"
    )
    with pytest.raises(UsageError, match="^ts_stat cannot be used here"):
        across(erp, escape, tenants=[ROLE])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("SELECT run('select 1')", "nord.run"),
        ("SELECT ('select 1'::text).run", "nord.run"),
        ("SELECT round('select 1'::text)", "nord.round"),
        ("SELECT shared.run('select 1')", "shared.run"),
        ('SELECT "shared" . "run" (1)', "shared.run"),
        ("SELECT <?> 'select 1'::text", "nord.run"),
        ("SELECT 1 ORDER BY <?> 'select 1'::text", "nord.run"),
        ("SELECT OPERATOR(shared.~~) 'select 1'::text", "shared.run"),
        ("SELECT 'select 1'::shared.answer", "shared.answer_of"),
        ("SELECT CAST('select 1' AS shared.answer)", "shared.answer_of"),
        ("SELECT 'select 1'::query", "nord.run"),
        ("SELECT query 'select 1'", "nord.run"),
        ("SELECT '[1,2]'::shared.vector OPERATOR(shared.<->) '[3,4]'", "shared.l2_distance"),
    ],
)  # fmt: skip
def test_what_is_not_built_in_is_refused_unless_the_settings_name_it(
    connection: Connection, query: str, named: str
) -> None:
    refused = refusal(connection, query)
    assert named in refused
    assert "ERPKIT_ALLOWED_FUNCTIONS" in refused
    schema, name = named.split(".")
    assert {refusal(connection, query, allowed=(one,)) for one in (name, named, f"{schema}.*")} == {""}
    assert refusal(connection, query, allowed=("other", f"other.{name}", "other.*")) == refused


def test_a_function_that_the_settings_name_opens_no_other_of_that_name(connection: Connection) -> None:
    assert "ts_stat cannot be used" in refusal(connection, "SELECT ts_stat('x')", allowed=("ts_stat", "shared.ts_stat"))


def test_a_function_of_a_schema_that_is_not_searched_stands_in_nobodys_way(connection: Connection) -> None:
    assert refusal(connection, "SELECT round(1.5), run FROM sales_orders, (SELECT 1 AS run) r", SUED) == ""
    assert "write run without its table" in refusal(connection, "SELECT r.run FROM (SELECT 1 AS run) r")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT 1; SELECT 2", "more than one statement"),
        ("SELECT 1; COMMIT; SELECT 2", "more than one statement"),
        ("SELECT * FROM sales_orders FOR NO KEY UPDATE SKIP LOCKED", "lock rows"),
        ("SELECT * INTO taken FROM sales_orders", "SELECT INTO creates a table"),
        ("WITH gone AS (DELETE FROM sales_orders RETURNING 1) SELECT * FROM gone", "DELETE changes data or settings"),
        ("WITH a AS (WITH b AS (INSERT INTO x VALUES (1) RETURNING 1) TABLE b) TABLE a", "INSERT changes data or settings"),
        ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN ANALYZE"),
        ("EXPLAIN (BUFFERS, \"analyze\" true) SELECT 1", "EXPLAIN ANALYZE"),
        ("EXPLAIN VERBOSE ANALYSE SELECT 1", "EXPLAIN ANALYZE"),
        ("EXPLAIN DELETE FROM sales_orders", "only a query that reads"),
        ("SHOW", "SHOW takes the name of a setting"),
        ("SELEC 1", "only a query that reads"),
        ("SELECT 1 FROM WHERE", "syntax error"),
        ("SELECT 1)", "without its ("),
        ("SELECT (1]", "without its ["),
        ("SELECT 'x", "not closed"),
        ('SELECT "x', "not closed"),
        ("SELECT 1 /* /* */", "not closed"),
        ("SELECT $x$ $y$", "not closed"),
        ("SELECT U&'\\0061'", "U& strings"),
        ('SELECT u&"ts\\005fstat"(1)', "U& strings"),
        ("SELECT 1\0", "NUL"),
        ("SELECT E'\\000'", "NUL"),
        ("SELECT '\ud800'", "surrogate"),
        ("SELECT 1a", "blank after the number"),
        ("SELECT $1", "write a parameter as"),
        ("SELECT " + "(" * 1_000 + "1" + ")" * 1_000, "nested too deeply"),
        ("SELECT " + "NOT " * 5_000 + "true", "nested too deeply"),
        ("SELECT 1" + ", 1" * 20_000, "pass long lists as one parameter"),
        ("SELECT '" + "x" * 6_000_000 + "'", "characters"),
    ],
)  # fmt: skip
def test_what_is_not_one_reading_statement_is_refused_with_the_reason(
    connection: Connection, query: str, reason: str
) -> None:
    started = time.monotonic()
    assert reason in refusal(connection, query)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "query",
    [
        "/*x*/" * 26 + "drop",
        "(" * 26 + "drop",
        "-- x\n" * 5_000 + "drop",
        "'" * 200_001,
        "/*" * 50_000,
        "*-" * 100_000,
        "1_" * 50_000,
    ],
)
def test_no_text_takes_long(connection: Connection, query: str) -> None:
    started = time.monotonic()
    assert refusal(connection, query)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("settings", ["SHOW work_mem", "EXPLAIN SELECT 1", "EXPLAIN (FORMAT json) SELECT 1"])
@pytest.mark.parametrize("limit", [None, 10])
def test_explain_and_show_give_rows(erp: Database, settings: str, limit: int | None) -> None:
    result = across(erp, settings, tenants=[NORD, SUED], limit=limit)
    assert result.errors == {}
    assert set(result.frame["tenant"]) == {"nord", "sued"}


def test_parameters_are_in_the_text_that_is_checked(erp: Database) -> None:
    odd = "x') OR pg_sleep(1) IS NULL --\\' $$ /*"
    frame = across(erp, "SELECT %(odd)s AS odd, '%%' AS sign", {"odd": odd}, tenants=[SUED]).frame
    assert list(frame.iloc[0]) == ["sued", odd, "%"]
    with pytest.raises(UsageError, match="more than one statement"):
        across(erp, "SELECT %(a)s; SELECT 2", {"a": 1}, tenants=[SUED])


@pytest.mark.parametrize("query", ["SELECT 1 WHERE 1 IN %(ids)s", "SELECT 1 WHERE 1 in (%(ids)s)"])
def test_a_list_after_in_is_told_how_to_be_written(erp: Database, query: str) -> None:
    with pytest.raises(UsageError, match=r"IN %\(ids\)s does not take a list: write = ANY\(%\(ids\)s\)"):
        across(erp, query, {"ids": [1, 2]}, tenants=[SUED])
    with pytest.raises(UsageError, match=r"= ANY\(%s\)"):
        across(erp, "SELECT 1 WHERE 1 IN %s", [[1, 2]], tenants=[SUED])
    right = across(
        erp, "SELECT 'IN %%s' AS a WHERE 1 = ANY(%(ids)s) AND 1 IN (%(one)s)", {"ids": [1, 2], "one": 1}, tenants=[SUED]
    )
    assert list(right.frame["a"]) == ["IN %s"]


def test_the_explorers_query_goes_through_the_same_guard(erp: Database) -> None:
    with erpkit.open(erp.conninfo) as door:
        explorer = Explorer(door, [SUED])
        explorer.kind.value = "a query"
        explorer.query.value = "SELECT sku FROM catalog_products WHERE name = 'pg_sleep(1)' OR price > 10 -- dear"
        explorer.run.click()
        assert explorer.frame is not None
        assert list(explorer.frame["sku"]) == ["b"]
        explorer.query.value = "SELECT ('1'::text).pg_sleep"
        explorer.run.click()
        assert "pg_sleep cannot be used here" in explorer._problem.value
        explorer.query.value = "SELECT * FROM nord.sales_orders"
        explorer.run.click()
        assert "another schema than the tenant" in explorer._problem.value


BEYOND = (
    "SELECT * FROM nord.sales_orders",
    'SELECT * FROM "nord" . "sales_orders"',
    "TABLE nord.sales_orders",
    "SELECT nord.sales_orders.id FROM sales_orders",
    "SELECT * FROM sales_orders nord, nord.sales_orders o",
    "EXPLAIN SELECT * FROM nord.sales_orders",
    "SELECT 'nord.sales_orders'::regclass",
    "SELECT CAST('nord.sales_orders' AS pg_catalog.regclass)",
    "SELECT regclass 'nord.sales_orders'",
    "SELECT regclass('nord.sales_orders')",
    "SELECT ('nord.sales_orders').regclass",
    "SELECT to_regclass('nord.sales_orders')",
    "SELECT to_regclass('\"nord\".sales_orders')",
    "SELECT to_regclass('NORD.sales_orders')",
    "SELECT to_regclass(E'nord\\x2esales_orders')",
    "SELECT to_regclass($$nord.sales_orders$$)",
    "SELECT to_regclass('no'\n'rd.sales_orders')",
    "SELECT to_regclass('no' || 'rd.sales_orders')",
    "SELECT ('no' || 'rd.sales_orders')::regclass",
    "SELECT (SELECT 'no' || 'rd.sales_orders')::regclass",
    "SELECT x::regclass FROM (SELECT 'no' || 'rd.sales_orders' AS x) y",
    "SELECT oid::regclass FROM (SELECT 'no' || 'rd.sales_orders' AS oid) y",
    "SELECT pg_relation_size(y.oid) FROM (SELECT 'no' || 'rd.sales_orders') y (oid)",
    "SELECT (ARRAY['nord.sales_orders'])::regclass[]",
    "SELECT '{nord.sales_orders}'::regclass[]",
    "SELECT a FROM json_to_record('{\"a\": \"nord.sales_orders\"}') AS r (a regclass)",
    "SELECT json_value('{\"a\": \"nord.sales_orders\"}', '$.a' RETURNING regclass)",
    "SELECT 'nord'::regnamespace",
    "SELECT regclassin(('no' || 'rd.sales_orders')::cstring)",
    "SELECT array_in(('{no' || 'rd.sales_orders}')::cstring, 2205, -1)",
    "SELECT pg_relation_size('nord.sales_orders')",
    "SELECT pg_relation_size(format('%s.sales_orders', 'nord'))",
    "SELECT ('nord.sales_orders'::text).pg_relation_size",
    "SELECT has_table_privilege('nord.sales_orders', 'SELECT')",
    "SELECT table_to_xml('nord.sales_orders', true, true, '')",
    "SELECT table_to_xml(oid, true, true, '') FROM pg_class WHERE relname = 'sales_orders'",
    "SELECT schema_to_xml('nord', true, true, '')",
    "SELECT database_to_xml(true, true, '')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_catalog.pg_shadow",
    'SELECT * FROM "pg_stats"',
    "SELECT * FROM pg_statistic",
    "SELECT * FROM pg_statistic_ext_data",
    "SELECT * FROM pg_stats_ext_exprs",
    "SELECT * FROM pg_user_mappings",
    "SELECT * FROM pg_largeobject",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT query FROM pg_stat_activity",
    "SELECT * FROM pg_stat_get_activity(NULL)",
    "SELECT * FROM information_schema.user_mapping_options",
)  # fmt: skip


@pytest.mark.parametrize("query", BEYOND)
def test_without_a_role_no_other_schema_is_named_in_any_way(connection: Connection, query: str) -> None:
    assert refusal(connection, query, SUED)


def test_a_tenants_own_schema_may_be_named_where_it_is_the_only_one(connection: Connection) -> None:
    query = "SELECT count(*), pg_relation_size('nord.sales_orders') FROM nord.sales_orders"
    assert refusal(connection, query, NORD) == ""
    assert "nord.sales_orders" in refusal(connection, query, NORD, SUED)


def test_shared_schemas_may_be_named_where_they_are_declared(connection: Connection) -> None:
    query = "SELECT rate, 'shared.rates'::regclass FROM shared.rates"
    assert "name it in ERPKIT_SHARED_SCHEMAS" in refusal(connection, query, SUED)
    assert refusal(connection, query, SUED, shared=("shared",)) == ""


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'nord.sales_orders' AS word, 1 AS pg_authid, 2 AS \"pg_stats\"",
        "SELECT p.name FROM catalog_products AS p WHERE p.name = 'nord'",
        "SELECT relname, c.oid::regclass, pg_relation_size(c.oid) FROM pg_class c WHERE relnamespace = current_schema()::regnamespace",
        "SELECT relid::regclass, pg_total_relation_size(relid) FROM pg_stat_user_tables WHERE schemaname = current_schema()",
    ],
)
def test_without_a_role_what_names_no_other_schema_passes(connection: Connection, query: str) -> None:
    assert refusal(connection, query, SUED) == ""


def test_settings_come_from_the_environment_and_then_from_modules_toml(tmp_path: Path, erp: Database) -> None:
    manifest = tmp_path / "modules.toml"
    manifest.write_text('shared_schemas = ["shared"]\nallowed_functions = ["shared.run"]\n[[module]]\nname = "sales"\n')
    declared = Settings.from_env({"ERPKIT_MODULES": str(manifest), "ERPKIT_DATABASE": erp.conninfo})
    assert (declared.shared_schemas, declared.allowed_functions) == (("shared",), ("shared.run",))
    over = Settings.from_env(
        {"ERPKIT_MODULES": str(manifest), "ERPKIT_SHARED_SCHEMAS": "a, b", "ERPKIT_ALLOWED_FUNCTIONS": ""}
    )
    assert (over.shared_schemas, over.allowed_functions) == (("a", "b"), ())
    with Database.open(declared) as database:
        frame = across(database, "SELECT shared.run('SELECT 7') AS n, count(*) FROM shared.rates", tenants=[SUED]).frame
    assert list(frame["n"]) == ["7"]
