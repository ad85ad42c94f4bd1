"""Plain SQL files with sqlc's annotations, checked in every tenant of an ERP that has neither goose's migrations nor sqlc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.errors import QueryError
from erpkit.modules import find_modules
from erpkit.modules.module import ModuleLike
from erpkit.queries import read_each_module
from erpkit.queries.plain import number_parameters, read_plain_queries
from tests.command import erpkit as run
from tests.situations import FOREIGN_QUERY

QUERIES = """\
-- Who owes us what.
-- name: OpenOrders :many
SELECT o.*, sqlc.embed(c) FROM orders o JOIN customers c ON c.id = o.customer
 WHERE o.total > @least AND (sqlc.narg('since')::date IS NULL OR o.placed_on >= sqlc.narg('since')) LIMIT sqlc.arg(most);

/* name: Close :exec */
UPDATE orders SET state = 'closed; @no' WHERE id IN (sqlc.slice('ids')); -- sqlc.arg(no)

-- name: AddCustomers :copyfrom
INSERT INTO customers (id, name) VALUES ($1, $2);

-- name: Tagged :one
SELECT count(*) FROM customers WHERE tags @> $1 AND tags <@ @most AND name = $2;
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A modules.toml that says `depends`, `tables` and `queries` alone."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "orders.sql").write_text(QUERIES)
    path = tmp_path / "modules.toml"
    path.write_text(
        '[[module]]\nname = "people"\ntables = ["customers"]\n'
        '[[module]]\nname = "shop"\ndepends = ["people"]\ntables = ["orders"]\nqueries = "sql"\n'
    )
    return path


@pytest.fixture
def environ(database: Database, manifest: Path) -> dict[str, str]:
    """Three tenants, of which the second lacks a column and the third may be named as nobody would."""
    with database.connection() as connection:
        for schema in ("Nord-1", "ost", 'we"st'):
            name = schema.replace('"', '""')
            connection.execute(
                f'CREATE SCHEMA "{name}"; SET search_path TO "{name}"; CREATE TABLE customers (id int, name text, tags text[]);'
                "CREATE TABLE orders (id int, customer int, total numeric, placed_on date, state text)".encode()
            )
        connection.execute("ALTER TABLE ost.orders DROP COLUMN state")
    return {
        "ERPKIT_DATABASE": database.conninfo, "ERPKIT_TENANTS_QUERY": FOREIGN_QUERY, "ERPKIT_MODULES": str(manifest)
    }  # fmt: skip


def test_they_are_planned_in_every_tenant_without_migrations(environ: dict[str, str]) -> None:
    done = run("queries", "check", "--json", **environ)
    found = json.loads(done.stdout)
    assert (done.returncode, found["tenants"], found["queries"], found["unread"]) == (3, 3, 4, [])
    assert [(one["tenant"], one["query"]) for one in found["broken"]] == [("ost", "Close")]
    assert "state" in found["broken"][0]["error"]


def test_the_modules_of_such_a_file_are_listed_and_checked(environ: dict[str, str]) -> None:
    assert "shop" in run("modules", "list", **environ).stdout
    checked = run("modules", "check", **environ)
    assert "load order: people, shop" in checked.stderr
    # That its queries use the other's table is declared.
    assert checked.returncode == 0
    (finding,) = [line.split("\t") for line in checked.stdout.splitlines()]
    assert finding[:2] == ["not read", "imports of people, shop were not read: they are not written in Python"]
    assert run("tenants", "inspect", **environ).returncode == 3  # the column that one lacks


def test_named_parameters_are_numbered_and_what_only_looks_like_one_is_left() -> None:
    same = "SELECT '@a', \"@b\", $$ @c $$ -- @d\n, x <@ y, x @> y, x @@ y, @ -5"
    cases = {
        "SELECT @a, sqlc.arg(b), sqlc.narg('a'), sqlc.slice(\"c\")": "SELECT $1, $2, $1, $3",
        "SELECT $1, $2, @a": "SELECT $1, $2, $3",
        "SELECT sqlc.embed(o), x=@a": "SELECT o.*, x=@a",  # =@ is one operator to PostgreSQL, too
        same: same,
    }
    assert {text: number_parameters(text) for text in cases} == cases


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("SELECT 1;", "a.sql: it has SQL that no annotation names"),
        ("-- name: A :one\n-- nothing\n", "a.sql:1: query A has no statement"),
        ("-- name: A :one\nSELECT 1;\n\n-- name: B :one\n;", "a.sql:4: query B has no statement"),
    ],
)
def test_a_file_that_is_not_understood_is_named_with_the_line(text: str, problem: str) -> None:
    with pytest.raises(QueryError, match=problem):
        list(read_plain_queries({Path("a.sql"): text}))


def test_a_broken_file_of_one_module_stops_no_other(manifest: Path) -> None:
    (manifest.parent / "sql" / "b.sql").write_text("-- name: A :nonsense\nSELECT 1;")
    modules = [one for one in find_modules(Settings(modules=str(manifest))) if isinstance(one, ModuleLike)]
    statements, errors = read_each_module(modules)
    (error,) = errors
    assert statements == []
    assert str(error).startswith("module shop: b.sql: query A is :nonsense, ")
