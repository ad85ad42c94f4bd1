"""Couplings that an adversary plants in the database: each kind of object of sales that needs one of billing."""

from collections.abc import Iterator

import psycopg
import pytest

from erpkit.couplings.catalog import catalog_edges
from erpkit.couplings.tables import TableOwners
from erpkit.database import Connection, Database
from erpkit.modules import Edge, Module

OWNERS = TableOwners([Module("sales"), Module("billing"), Module("odd", tables=("plain",))])

BASE = """
CREATE SCHEMA shop; CREATE SCHEMA tools; SET search_path = shop;
CREATE TABLE billing_x (id int PRIMARY KEY, amount int);
CREATE TABLE billing_p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE SEQUENCE billing_seq;
CREATE TYPE billing_mood AS ENUM ('good', 'bad');
CREATE TYPE billing_pair AS (a int, b int);
CREATE DOMAIN billing_money AS int CHECK (VALUE > 0);
CREATE COLLATION billing_order (provider = libc, locale = 'C');
CREATE FUNCTION billing_f(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';
CREATE FUNCTION billing_add(i int, j int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i + j';
CREATE FUNCTION billing_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION billing_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TABLE sales_x (id int PRIMARY KEY, n int);
CREATE TABLE plain (id int PRIMARY KEY);
"""

CERTAIN = {
    "a foreign key": (
        "CREATE TABLE sales_k (id int CONSTRAINT k REFERENCES billing_x)", "foreign key", "k, sales_k -> billing_x"),
    "a view": ("CREATE VIEW sales_v AS SELECT * FROM billing_x", "view", "view sales_v reads billing_x"),
    "a view of a function": ("CREATE VIEW sales_v AS SELECT billing_f(1)", "view", "view sales_v calls billing_f"),
    "a view of a name as regclass": (
        "CREATE VIEW sales_v AS SELECT 'billing_x'::regclass", "view", "view sales_v reads billing_x"),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW sales_m AS SELECT * FROM billing_x", "view", "materialized view sales_m reads billing_x"),
    "inheritance": (
        "CREATE TABLE sales_c () INHERITS (billing_x)", "inherits", "table sales_c inherits from billing_x"),
    "a partition": (
        "CREATE TABLE sales_c PARTITION OF billing_p DEFAULT", "inherits", "table sales_c inherits from billing_p"),
    "a key of a partition": (
        "CREATE TABLE sales_c (i int) PARTITION BY RANGE (billing_f(i))", "database", "table sales_c calls billing_f"),
    "a typed table": ("CREATE TABLE sales_c OF billing_pair", "type", "table sales_c has type billing_pair"),
    "a column's enum": ("CREATE TABLE sales_c (a billing_mood)", "type", "column sales_c.a has type billing_mood"),
    "a column of an array": ("CREATE TABLE sales_c (a billing_money[])", "type", "column sales_c.a has type billing_money"),
    "a column of rows": ("CREATE TABLE sales_c (a billing_x[])", "type", "column sales_c.a has type billing_x"),
    "a column's collation": (
        "CREATE TABLE sales_c (a text COLLATE billing_order)", "type", "column sales_c.a uses billing_order"),
    "a domain": ("CREATE DOMAIN sales_d AS billing_money", "type", "type sales_d has type billing_money"),
    "a check of a domain": (
        "CREATE DOMAIN sales_d AS int CHECK (billing_f(VALUE) > 1)", "type", "domain sales_d calls billing_f"),
    "a composite type": ("CREATE TYPE sales_t AS (a billing_mood)", "type", "column sales_t.a has type billing_mood"),
    "a range": (
        "CREATE TYPE sales_t AS RANGE (SUBTYPE = billing_money)", "type", "type sales_t has type billing_money"),
    "a default of a sequence": (
        "CREATE TABLE sales_c (a int DEFAULT nextval('billing_seq'))", "default", "default sales_c.a uses billing_seq"),
    "a generated column": (
        "CREATE TABLE sales_c (n int, a int GENERATED ALWAYS AS (billing_f(n)) STORED)", "default",
        "default sales_c.a calls billing_f"),
    "a sequence that a column owns": (
        "CREATE SEQUENCE sales_s OWNED BY billing_x.id", "sequence", "sequence sales_s is owned by billing_x"),
    "a check": (
        "ALTER TABLE sales_x ADD CONSTRAINT few CHECK (billing_f(n) > 0)", "check",
        "constraint few of sales_x calls billing_f"),
    "an index": ("CREATE INDEX odd_one ON sales_x (billing_f(n))", "index", "index odd_one of sales_x calls billing_f"),
    "a trigger": (
        "CREATE TRIGGER bell AFTER INSERT ON sales_x EXECUTE FUNCTION billing_trigger()", "trigger",
        "trigger bell of sales_x calls billing_trigger"),
    "a policy": (
        "CREATE POLICY wall ON sales_x USING (EXISTS (SELECT FROM billing_x b WHERE b.id = n))", "policy",
        "policy wall of sales_x reads billing_x"),
    "a rule": (
        "CREATE RULE also AS ON DELETE TO sales_x DO ALSO DELETE FROM billing_x", "rule",
        "rule also of sales_x uses billing_x"),
    "a body in standard SQL": (
        "CREATE FUNCTION sales_f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM billing_x; END", "function",
        "function sales_f uses billing_x"),
    "a body in a string of SQL": (
        "CREATE FUNCTION sales_f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM billing_x'", "function",
        "function sales_f uses billing_x"),
    "a body in PL/pgSQL": (
        "CREATE PROCEDURE sales_f() LANGUAGE plpgsql AS $$BEGIN\n INSERT INTO billing_x VALUES (1);\nEND$$", "function",
        "procedure sales_f, line 2, uses billing_x"),
    "a row's type in PL/pgSQL": (
        "CREATE FUNCTION sales_f() RETURNS int LANGUAGE plpgsql AS 'DECLARE b billing_x.id%TYPE; BEGIN RETURN b; END'",
        "function", "function sales_f uses billing_x"),
    "a call in PL/pgSQL": (
        "CREATE FUNCTION sales_f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN billing_f(1); END'", "function",
        "function sales_f uses billing_f"),
    "an argument": (
        "CREATE FUNCTION sales_f(a billing_mood) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function",
        "function sales_f uses billing_mood"),
    "a default of an argument": (
        "CREATE FUNCTION sales_f(a int DEFAULT billing_f(1)) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function",
        "function sales_f calls billing_f"),
    "an aggregate": (
        "CREATE AGGREGATE sales_a (int) (SFUNC = billing_add, STYPE = int)", "function",
        "aggregate sales_a calls billing_add"),
    "a cast": (
        "CREATE TYPE sales_t AS (a int); CREATE FUNCTION billing_c(sales_t) RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "CREATE CAST (sales_t AS int) WITH FUNCTION billing_c(sales_t)", "database",
        "cast of sales_t to integer calls billing_c"),
    "extended statistics": (
        "CREATE STATISTICS sales_s ON id, amount FROM billing_x", "database", "statistics object sales_s uses billing_x"),
    "a publication": (
        "CREATE PUBLICATION sales_pub FOR TABLE billing_x", "database", "publication sales_pub uses billing_x"),
    "an event trigger": (
        "CREATE EVENT TRIGGER sales_e ON ddl_command_end EXECUTE FUNCTION billing_event()", "database",
        "event trigger sales_e calls billing_event"),
    "an operator of no module": (
        "CREATE OPERATOR @@@ (LEFTARG = int, RIGHTARG = int, FUNCTION = billing_add);"
        "CREATE VIEW sales_v AS SELECT n @@@ 1 AS x FROM sales_x", "view",
        "view sales_v uses @@@; operator @@@ calls billing_add"),
    "a view of no module": (
        "CREATE VIEW shared AS SELECT * FROM billing_x; CREATE VIEW sales_v AS SELECT * FROM shared", "view",
        "view sales_v reads shared; view shared reads billing_x"),
    "a function of another schema": (
        "CREATE FUNCTION tools.deep() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT id FROM shop.billing_x); END';"
        "CREATE VIEW sales_v AS SELECT tools.deep()", "view",
        "view sales_v calls tools.deep; function tools.deep uses billing_x"),
    "a body that calls one of another schema": (
        "CREATE VIEW tools.far AS SELECT * FROM shop.billing_x;"
        "CREATE FUNCTION sales_f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT id FROM tools.far); END'", "function",
        "function sales_f uses tools.far; view tools.far reads billing_x"),
}  # fmt: skip

NAMED = {
    "SQL in a string of PL/pgSQL": (
        "CREATE PROCEDURE sales_f() LANGUAGE plpgsql AS $$BEGIN EXECUTE 'TRUNCATE billing_x'; END$$",
        "function", "procedure sales_f names billing_x"),
    "SQL in a string of a view": (
        "CREATE VIEW sales_v AS SELECT query_to_xml('select * from billing_x', true, true, '')",
        "view", "view sales_v names billing_x"),
    "a sequence's name as text": (
        "CREATE TABLE sales_c (a int DEFAULT nextval('billing_seq'::text))", "default", "default sales_c.a names billing_seq"),
    "a default of a domain": (
        "CREATE DOMAIN sales_d AS int DEFAULT nextval('billing_seq'::text)", "type", "type sales_d names billing_seq"),
    "an argument of a trigger": (
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER bell AFTER INSERT ON sales_x EXECUTE FUNCTION note('billing_x')",
        "trigger", "trigger bell of sales_x names billing_x"),
    "a policy": (
        "CREATE POLICY wall ON sales_x USING (has_table_privilege('billing_x', 'SELECT'))",
        "policy", "policy wall of sales_x names billing_x"),
    "a foreign table": (
        "CREATE FOREIGN DATA WRAPPER back; CREATE SERVER here FOREIGN DATA WRAPPER back;"
        "CREATE FOREIGN TABLE sales_c (a int) SERVER here OPTIONS (table_name 'billing_x')",
        "database", "foreign table sales_c names billing_x"),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(shared_database: Database) -> Iterator[Connection]:
    """A connection on a schema with the objects of two modules."""
    with shared_database.connection() as connection:
        connection.execute(BASE)
        yield connection
        connection.execute("RESET search_path")


def _planted(connection: Connection, sql: str) -> list[Edge]:
    """Return the edges that objects make, which are gone again afterwards."""
    with connection.transaction() as planting:
        connection.execute(sql)
        edges = catalog_edges(connection, "shop", (), OWNERS.find)
        raise psycopg.Rollback(planting)
    return edges


def test_modules_that_need_nothing_of_each_other_have_no_edge(shop: Connection) -> None:
    assert _planted(shop, "SELECT 1") == []


@pytest.mark.parametrize("what", CERTAIN)
def test_what_an_object_needs_is_found_for_certain(shop: Connection, what: str) -> None:
    sql, kind, words = CERTAIN[what]
    edges = [edge for edge in _planted(shop, sql) if edge.source == "sales"]
    assert [(edge.target, edge.kind, edge.evidence, edge.certain) for edge in edges] == [("billing", kind, words, True)]


@pytest.mark.parametrize("what", NAMED)
def test_what_only_a_string_names_is_found_and_said_to_be_uncertain(shop: Connection, what: str) -> None:
    sql, kind, words = NAMED[what]
    edges = [edge for edge in _planted(shop, sql) if edge.source == "sales"]
    assert [(edge.target, edge.kind, edge.evidence, edge.certain) for edge in edges] == [
        ("billing", kind, words, False)
    ]


def test_a_class_of_operators_of_no_module_is_followed(shop: Connection) -> None:
    edges = _planted(
        shop,
        "CREATE OPERATOR CLASS ranks FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 1 billing_f(int);"
        "CREATE INDEX ranked ON sales_x USING hash (n ranks)",
    )
    assert [(edge.source, edge.target, edge.kind) for edge in edges] == [("sales", "billing", "index")]
    assert edges[0].evidence == "index ranked of sales_x uses ranks; operator family ranks calls billing_f"


def test_a_word_in_a_body_is_no_coupling_where_nothing_has_that_name(shop: Connection) -> None:
    body = "BEGIN RAISE NOTICE ''billing_nothing, billing''; RETURN extract(day FROM billing_date); END"
    sql = f"CREATE FUNCTION sales_f(billing_date date) RETURNS int LANGUAGE plpgsql AS '{body}'"
    assert _planted(shop, sql) == []


def test_a_module_whose_tables_have_no_prefix_is_found_by_its_names(shop: Connection) -> None:
    (edge,) = _planted(shop, "CREATE VIEW sales_v AS SELECT * FROM plain")
    assert (edge.source, edge.target) == ("sales", "odd")
