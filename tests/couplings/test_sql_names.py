"""Names in SQL texts: where one stands decides whether it is a table for certain, or only a word."""

import pytest

from erpkit.couplings.names import read_names


def _places(text: str) -> dict[str, str]:
    return {mention.name: mention.place for mention in read_names(text)}


@pytest.mark.parametrize("text", [
    "SELECT 1 FROM orders", "SELECT 1 FROM a, shop.orders o", "SELECT 1 FROM ONLY orders", 'SELECT 1 FROM "orders"',
    "DELETE FROM orders", "INSERT INTO orders (id) VALUES (1)", "MERGE INTO orders USING x ON true", "UPDATE ONLY orders SET a = 1",
    "SELECT 1 FROM a CROSS JOIN LATERAL orders", "TRUNCATE a, orders", "LOCK TABLE orders", "COPY orders FROM STDIN",
    "DECLARE r orders%ROWTYPE; BEGIN END", "DECLARE r shop.orders.id%TYPE; BEGIN END", "ALTER TABLE IF EXISTS orders ADD a int",
    "DROP VIEW IF EXISTS a, orders", "CREATE TABLE a (b int REFERENCES orders (id))", "CREATE TABLE a PARTITION OF orders DEFAULT",
    "CREATE TABLE a (LIKE orders)", "CREATE TABLE a () INHERITS (b, orders)", "CREATE UNIQUE INDEX CONCURRENTLY a ON orders (b)",
    "COMMENT ON TABLE orders IS 'x'", "DROP TRIGGER a ON orders", "SELECT nextval('orders')", "SELECT 'orders'::regclass",
    "SELECT x::orders", "DELETE FROM a USING orders", "MERGE INTO a USING orders ON true",
    "DO $$ BEGIN PERFORM 1 FROM orders; END $$", "CREATE FUNCTION f() RETURNS int AS $x$ SELECT 1 FROM orders $x$ LANGUAGE sql",
    "SELECT 1 FROM ONLY (orders)", "SELECT 1 FROM ((orders JOIN a ON true) JOIN b ON true)",
    "SELECT 1 FROM a JOIN (orders JOIN b ON true) ON true",
    "SELECT 1 /* FROM x */ FROM -- FROM y\n orders",
])  # fmt: skip
def test_a_name_where_sql_has_a_table_is_one(text: str) -> None:
    assert _places(text)["orders"] == "table"


@pytest.mark.parametrize("text", [
    "SELECT extract(day FROM orders)", "SELECT trim(BOTH FROM orders)", "SELECT a IS DISTINCT FROM orders",
    "SELECT a IS DISTINCT FROM (orders)",
    "SELECT extract(day FROM (orders))", "SELECT 1 -- FROM orders",
    "SELECT 1 FROM a ORDER BY b, orders", "SELECT b INTO orders FROM a", "SELECT 'no orders here'", "SELECT orders FROM a",
    "WITH orders AS (SELECT 1) SELECT 1 FROM orders",
    "WITH a AS (SELECT 1), orders (b) AS MATERIALIZED (SELECT 1) SELECT 1 FROM orders",
    "CREATE TABLE a (b int REFERENCES c, orders int)", "SELECT 1 FROM a JOIN b ON orders = 1",
])  # fmt: skip
def test_a_word_of_prose_or_a_column_is_no_name(text: str) -> None:
    assert "orders" not in _places(text)


def test_a_statement_in_a_string_is_read_as_one_and_stays_uncertain() -> None:
    assert _places("BEGIN EXECUTE 'TRUNCATE orders'; END")["orders"] == "string"
    assert _places("BEGIN EXECUTE 'SELECT ' || f || ' FROM order_lines'; END")["order_lines"] == "string"
    assert _places("SELECT note('orders')")["orders"] == "string"


def test_what_a_text_has_after_an_open_quote_is_read_as_words() -> None:
    assert _places("SELECT 1 WHERE a = 'it FROM order_lines")["order_lines"] == "string"


def test_a_name_stands_on_its_line() -> None:
    text = "SELECT 1\nFROM a;\nDO $$\nBEGIN\n DELETE FROM orders;\nEND $$"
    assert [mention.line for mention in read_names(text) if mention.name == "orders"] == [5]


def test_texts_of_any_size_and_depth_are_read() -> None:
    deep = "SELECT 1 FROM orders"
    for level in range(1500):
        deep = f"DO $a{level}$ {deep} $a{level}$"
    assert [mention for mention in read_names(deep) if mention.place == "table"] == []
    long = "WITH a AS (SELECT 1) INSERT INTO orders VALUES " + ", ".join(f"(f{n}(1), 'x')" for n in range(30_000))
    assert _places(long)["orders"] == "table"
