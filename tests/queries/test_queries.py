"""Typed queries: real sqlc, the generated code run against the real database, and the check of each tenant's schema."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import psycopg
import pytest

from erpkit.database import Database
from erpkit.errors import QueryError
from erpkit.migrations import Migration, read_migrations
from erpkit.modules import Module, Registry
from erpkit.queries import (
    BrokenModulesError,
    QueryCheck,
    Statement,
    check_queries,
    generate,
    read_each_module,
    read_statements,
)
from erpkit.queries.check import BrokenQuery
from erpkit.sample.demo import Planted
from erpkit.tenants import create_tenant, find_tenants, set_status

ROOT = Path(__file__).parents[2]

SCHEMA = """-- +goose Up
CREATE TYPE shop_mood AS ENUM ('happy', 'very sad', 'a,"b"');
CREATE TABLE shop_author (
    id bigserial PRIMARY KEY, name text NOT NULL, bio text, mood shop_mood NOT NULL,
    moods shop_mood[] NOT NULL DEFAULT '{}', tags text[] NOT NULL DEFAULT '{}', meta jsonb, paid numeric(10, 2),
    born date, at timestamptz NOT NULL DEFAULT now(), uid uuid, "class" text,
    date date, time time
);
CREATE TABLE shop_book (id integer PRIMARY KEY, author_id bigint NOT NULL REFERENCES shop_author, title varchar(20) NOT NULL);
-- +goose Down
DROP TABLE shop_book;
DROP TABLE shop_author;
"""

QUERIES = r"""-- name: AddAuthor :one
INSERT INTO shop_author (name, mood, moods, tags, meta, paid, born, uid)
VALUES (sqlc.arg(name), sqlc.arg(mood), sqlc.arg(moods), sqlc.arg(tags),
    sqlc.narg(meta), sqlc.narg(paid), sqlc.narg(born), sqlc.narg(uid))
RETURNING id;

-- name: GetAuthor :one
-- Return an author, 100% "sure" \d.
-- With every column.
SELECT * FROM shop_author WHERE id = $1;

-- name: AddBook :exec
INSERT INTO shop_book (id, author_id, title) VALUES ($1, $2, $3);

-- name: ListNames :many
SELECT name FROM shop_author WHERE id IN (sqlc.slice('ids')) ORDER BY name;

-- name: ListOthers :many
SELECT name, bio FROM shop_author WHERE id NOT IN (sqlc.slice(ids)) ORDER BY name;

-- name: FindByMood :many
SELECT mood, count(*) FROM shop_author WHERE mood = ANY (sqlc.arg(wanted)::shop_mood[]) GROUP BY 1 ORDER BY 1;

-- name: FindByBio :many
SELECT name FROM shop_author WHERE sqlc.narg(bio)::text IS NULL OR bio = sqlc.narg(bio) ORDER BY name;

-- name: ListBooks :many
SELECT sqlc.embed(shop_author), sqlc.embed(shop_book), 1 + 1 AS two
FROM shop_author JOIN shop_book ON shop_book.author_id = shop_author.id ORDER BY shop_book.id;

-- name: ListTitles :many
SELECT shop_author.name, shop_book.title FROM shop_author LEFT JOIN shop_book ON shop_book.author_id = shop_author.id ORDER BY 1;

-- name: Rename :execrows
UPDATE shop_author SET name = '100% %s $1 %(x)s ' || sqlc.arg(name)::text -- 5% of $2, "quoted"
WHERE name NOT LIKE '%z' AND id = sqlc.arg(id);

-- name: DeleteBook :execresult
DELETE FROM shop_book WHERE id = sqlc.arg(row) RETURNING title;

-- name: Percent :one
SELECT '50%' || E'\'%' || $$ $1 % $$;

-- name: Page :many
SELECT id, title FROM shop_book ORDER BY id LIMIT sqlc.arg(size) OFFSET sqlc.arg(skip);

-- name: FindByDate :many
SELECT date, time, at FROM shop_author WHERE date = sqlc.arg(date) OR time = sqlc.arg(time);

-- name: ListDated :many
SELECT id::text FROM shop_author WHERE born <> date '2026-01-01' AND bio = sqlc.arg(decimal);

-- name: SumPaid :one
SELECT sum(paid)::numeric FROM shop_author;
"""


@pytest.fixture
def shop(tmp_path: Path) -> Module:
    folder = tmp_path / "shop"
    for name, text in (("migrations/00001_shop.sql", SCHEMA), ("queries/shop.sql", QUERIES)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return Module("shop", migrations=folder / "migrations", queries=folder / "queries")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("shop_sql", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop_sql"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_annotation_and_type_works_against_the_database(database: Database, shop: Module) -> None:
    (file,) = generate([shop])
    code = _load(file.path)
    tenant = create_tenant(database, read_migrations([shop]), "acme")
    uid, moods = uuid4(), ["very sad", 'a,"b"']
    with database.tenant_transaction(tenant, write=True) as connection:
        ann = code.add_author(
            connection, name="Ann", mood="happy", moods=moods, tags=["x", "y%"], meta={"a": [1]}, paid=Decimal("1.50"),
            born=date(1990, 1, 2), uid=uid,
        )  # fmt: skip
        ben = code.add_author(
            connection, name="Ben", mood="very sad", moods=[], tags=[], meta=None, paid=None, born=None, uid=None
        )
        for book in range(3):
            assert code.add_book(connection, id=book, author_id=ann, title=f"Book {book}") is None
        row = code.get_author(connection, ann)
        assert (row.name, row.bio, row.mood, row.moods, row.tags) == ("Ann", None, "happy", moods, ["x", "y%"])
        assert (row.meta, row.paid, row.born, row.uid) == ({"a": [1]}, Decimal("1.50"), date(1990, 1, 2), uid)
        assert isinstance(row.at, datetime)
        assert row.at <= datetime.now(UTC)
        with pytest.raises(FrozenInstanceError):
            row.name = "Bob"
        assert code.get_author(connection, -1) is None
        assert code.get_author(connection, ben).meta is None
        assert code.list_names(connection, [ann, ben]) == ["Ann", "Ben"]
        assert code.list_names(connection, []) == []
        assert [other.name for other in code.list_others(connection, [ann])] == ["Ben"]
        found = code.find_by_mood(connection, ["happy", "very sad"])
        assert [(f.mood, f.count) for f in found] == [("happy", 1), ("very sad", 1)]
        assert code.find_by_bio(connection, None) == ["Ann", "Ben"]
        assert code.find_by_bio(connection, "none") == []
        first, *_, last = code.list_books(connection)
        assert (first.shop_author, first.shop_book.title, last.two) == (row, "Book 0", 2)
        assert {(t.name, t.title) for t in code.list_titles(connection)} >= {("Ann", "Book 0"), ("Ben", None)}
        assert [book.id for book in code.page(connection, skip=1, size=1)] == [1]
        assert code.rename(connection, name="Ann", id=ann) == 1
        assert code.get_author(connection, ann).name == "100% %s $1 %(x)s Ann"
        assert code.delete_book(connection, 0).fetchone() == ("Book 0",)
        assert code.percent(connection) == "50%'% $1 % "
        assert code.sum_paid(connection) == Decimal("1.50")


def test_generated_code_says_what_comes_out_and_passes_mypy_and_ruff(shop: Module) -> None:
    (file,) = generate([shop])
    source = file.path.read_text()
    for line in (
        'ShopMood = Literal["happy", "very sad", \'a,"b"\']',
        "    moods: list[ShopMood]",
        "    meta: Any",
        "    paid: Decimal | None",
        "def get_author(connection: Connection[Any], id: int) -> ShopAuthorRow | None:",
        '    """Return an author, 100% "sure" \\\\d.',
        "    class_: str | None",
        "    date_: date | None",
        "def list_names(connection: Connection[Any], ids: list[int]) -> list[str]:",
        "    title: str | None",
        "def rename(connection: Connection[Any], name: str, id: int) -> int:",
        "def delete_book(connection: Connection[Any], row_: int) -> Cursor[Any]:",
        "    shop_author: ShopAuthorRow",
    ):
        assert line in source.splitlines(), line
    for command in (
        ("mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), str(file.path)),
        ("ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(file.path)),
        ("ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), str(file.path)),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_code_of_the_sample_is_not_stale(registry: Registry) -> None:
    files = generate(registry.modules, check=True)
    assert [file.module for file in files] == ["catalog", "sales", "inventory", "billing"]
    assert not any(file.stale for file in files)


def test_stale_code_is_told_and_not_touched(shop: Module) -> None:
    (file,) = generate([shop])
    assert file.stale
    assert not generate([shop], check=True)[0].stale
    assert shop.queries is not None
    with (shop.queries / "shop.sql").open("a") as queries:
        queries.write("\n-- name: CountBooks :one\nSELECT count(*) FROM shop_book;\n")
    before = file.path.read_text()
    assert generate([shop], check=True)[0].stale
    assert file.path.read_text() == before
    generate([shop])
    assert "def count_books(connection: Connection[Any]) -> int:" in file.path.read_text()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("-- name: Lost :one\nSELECT no_such FROM shop_book;", r"module shop: .*new\.sql:2:8.*no_such"),
        (
            "-- name: Fast :execlastid\nINSERT INTO shop_book (id, author_id, title) VALUES ($1, $2, $3);",
            "query Fast is :execlastid",
        ),
        ("-- name: rename :exec\nDELETE FROM shop_book;", r"module shop: more than one query becomes rename\(\)"),
    ],
)
def test_a_query_that_cannot_be_generated_is_named_and_nothing_is_written(shop: Module, query: str, words: str) -> None:
    assert shop.queries is not None
    (shop.queries / "new.sql").write_text(query)
    with pytest.raises(QueryError, match=words):
        generate([shop])
    assert not (shop.queries.parent / "sql.py").exists()


@pytest.mark.parametrize("text", [None, "<<<<<<< ours\n", '"""Older than its handlers."""\n'])
def test_code_is_generated_where_it_is_missing_broken_or_older_than_the_handlers(
    tmp_path: Path, text: str | None
) -> None:
    """The handlers import sql.py, and the module's record names the folder that it is generated from."""
    shutil.copytree(ROOT / "erpkit", tmp_path / "erpkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("catalog", "sales", "inventory", "billing"):
        path = tmp_path / "erpkit" / "sample" / name / "sql.py"
        path.unlink()
        if text is not None:
            path.write_text(text)
    environ = {"ERPKIT_MODULES": "erpkit.sample", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from erpkit.cli import main; main()", "queries", "generate"],
        cwd=tmp_path, env=os.environ | environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written") == 4
    for path in tmp_path.glob("erpkit/sample/*/sql.py"):
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()


def test_a_module_sees_its_dependencies_tables_and_no_others(shop: Module, tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "a.sql").write_text("-- name: CountAll :one\nSELECT count(*) FROM shop_book;\n")
    desk = Module("desk", ("shop",), queries=tmp_path / "desk")
    assert [file.module for file in generate([shop, desk])] == ["shop", "desk"]
    with pytest.raises(QueryError, match="module desk: .*shop_book"):
        generate([shop, replace(desk, dependencies=())])


def test_check_names_the_query_that_drift_broke_and_nothing_else(
    database: Database, migrations: tuple[Migration, ...], registry: Registry
) -> None:
    tenants = [create_tenant(database, migrations, slug) for slug in ("acme", "bluebird", "cobalt")]
    statements = read_statements(registry.modules)
    assert len(statements) == 25
    assert check_queries(database, tenants, statements) == []
    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_bluebird.inventory_shortages RENAME COLUMN lacking TO missing")
        connection.execute("ALTER TABLE tenant_bluebird.sales_customers DROP COLUMN country")
    broken = check_queries(database, tenants, statements)
    assert [(b.tenant, b.module, b.query) for b in broken] == [
        ("bluebird", "sales", "add_customer"),
        ("bluebird", "inventory", "note_shortages"),
        ("bluebird", "inventory", "close_shortages"),
    ]
    assert 'column "country" of relation "sales_customers" does not exist' in broken[0].error


def test_check_names_what_the_tenants_role_may_not_do(
    database: Database, migrations: tuple[Migration, ...], registry: Registry
) -> None:
    acme, bluebird, cobalt = (create_tenant(database, migrations, slug) for slug in ("acme", "bluebird", "cobalt"))
    statements = read_statements(registry.modules)
    with database.connection() as connection:
        connection.execute(f'REVOKE INSERT ON tenant_acme.sales_orders FROM "{acme.role}"')
        connection.execute(f'REVOKE USAGE ON SCHEMA tenant_bluebird FROM "{bluebird.role}"')
        archived = set_status(connection, cobalt.slug, "archived")
    broken = check_queries(database, [acme, archived], statements)
    assert [str(one) for one in broken] == ["acme: sales.add_order: permission denied for table sales_orders"]
    broken = check_queries(database, [bluebird], statements)
    assert {one.error for one in broken} == {
        f"the role {bluebird.role} may not use the schema tenant_bluebird: "
        f'GRANT USAGE ON SCHEMA "tenant_bluebird" TO "{bluebird.role}"'
    }
    login = f"login_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {login} LOGIN")
        with Database(psycopg.conninfo.make_conninfo(database.conninfo, user=login), "as another login") as seen:
            broken = check_queries(seen, [acme], statements)
            connection.execute(
                f'GRANT "{acme.reader}" TO {login}; REVOKE USAGE ON SCHEMA tenant_acme FROM "{acme.reader}"'
            )
            without_usage = check_queries(seen, [acme], statements)
        connection.execute(f"DROP ROLE {login}")
    (error,) = {one.error for one in broken}
    assert error == f'this login may not take the role {acme.role}: GRANT "{acme.reader}" TO "{login}"'
    (error,) = {one.error for one in without_usage}
    assert error.endswith(f'may not use the schema tenant_acme: GRANT USAGE ON SCHEMA "tenant_acme" TO "{acme.reader}"')


def test_check_asks_for_the_right_to_call_a_function_and_does_not_call_it(
    database: Database, migrations: tuple[Migration, ...]
) -> None:
    acme = create_tenant(database, migrations, "acme")
    with database.connection() as connection:
        connection.execute(
            "CREATE FUNCTION tenant_acme.secret(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$; "
            "REVOKE EXECUTE ON FUNCTION tenant_acme.secret FROM public"
        )
    wanted = [
        Statement("x", "call_it", "SELECT secret($1)"),
        Statement("x", "percent", "-- it's 5%\nSELECT '\\' || $1::text || $q$'$q$"),
        Statement("x", "empty_it", "TRUNCATE catalog_categories"),
    ]
    broken = check_queries(database, [acme], wanted)
    assert [(one.query, one.error) for one in broken] == [("call_it", "permission denied for function secret")]
    with database.connection() as connection:
        connection.execute("GRANT EXECUTE ON FUNCTION tenant_acme.secret TO public")
    assert check_queries(database, [acme], wanted) == []


def test_check_tells_a_schema_that_is_gone_and_goes_on(database: Database, registry: Registry, erp: Planted) -> None:
    with database.connection() as connection:
        connection.execute("DROP SCHEMA tenant_acme CASCADE")
        tenants = find_tenants(connection)
    broken = check_queries(database, tenants, read_statements(registry.modules))
    behind = {(b.tenant, b.query) for b in broken if b.tenant != "acme"}
    assert {b.error for b in broken if b.tenant == "acme"} == {"there is no schema tenant_acme"}
    assert not behind


def test_checking_a_module_without_generated_code_says_what_to_do(shop: Module) -> None:
    with pytest.raises(QueryError, match=r"module shop: there is no .*sql\.py: run erpkit queries generate"):
        read_statements([shop])


def test_the_command_line_ends_with_3_for_a_broken_query(erp: Planted, database: Database) -> None:
    from tests.command import erpkit

    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    assert erpkit("queries", "generate", "--check", **environ).returncode == 0
    done = erpkit("queries", "check", "-o", "table", **environ)
    assert (done.returncode, "25 queries in 4 tenants: 0 broken" in done.stdout) == (0, True)
    with database.connection() as connection:
        connection.execute("ALTER TABLE tenant_acme.sales_customers DROP COLUMN country")
    done = erpkit("queries", "check", "-o", "table", **environ)
    assert (done.returncode, "! acme: sales.add_customer: column" in done.stdout) == (3, True)
    assert erpkit("queries", "check", "--tenant", "bluebird", "--json", **environ).returncode == 0


def _trio(root: Path) -> list[Module]:
    """Make three modules, each with a table and a query; `a` comes first."""
    for name in ("a", "b", "c"):
        for path, text in (
            ("migrations/00001_x.sql", f"-- +goose Up\nCREATE TABLE {name}_rows (id int PRIMARY KEY);\n"),
            ("queries/x.sql", f"-- name: Count{name} :one\nSELECT count(*) FROM {name}_rows;\n"),
        ):
            (root / name / path).parent.mkdir(parents=True)
            (root / name / path).write_text(text)
    return [Module(n, migrations=root / n / "migrations", queries=root / n / "queries") for n in "abc"]


def _spoil(folder: Path, how: str) -> None:
    query, code = folder / "queries" / "x.sql", folder / "sql.py"
    match how:
        case "no folder":
            shutil.rmtree(query.parent)
        case "no code":
            code.unlink()
        case "broken query":
            query.write_text("-- name: Bad :many\nSELECT nope FROM nowhere;\n")
        case "broken encoding":
            query.write_bytes(b"-- name: Bad :one\nSELECT '\xff';\n")
        case "broken annotation":
            query.write_text("-- name: Bad :never\nSELECT 1;\n")
        case "conflict":
            code.write_text("<<<<<<< ours\n")
        case "edited":
            code.write_text("from typing import Final\nCOUNT: Final = print('run')\n")


@pytest.mark.parametrize("how", ["no folder", "broken query", "broken encoding", "broken annotation"])
def test_one_modules_broken_folder_stops_no_others_code(tmp_path: Path, how: str) -> None:
    modules = _trio(tmp_path)
    _spoil(tmp_path / "a", how)
    with pytest.raises(BrokenModulesError, match="^module a: [^\n]*$") as raised:
        generate(modules)
    assert [(file.module, file.queries) for file in raised.value.files] == [("b", 1), ("c", 1)]
    assert [(tmp_path / name / "sql.py").exists() for name in "abc"] == [False, True, True]


@pytest.mark.parametrize("how", ["no folder", "no code", "conflict", "edited"])
def test_a_module_that_cannot_be_read_keeps_no_other_from_the_check(tmp_path: Path, how: str) -> None:
    modules = _trio(tmp_path)
    generate(modules)
    _spoil(tmp_path / "a", how)
    statements, errors = read_each_module(modules)
    assert [statement.name for statement in statements] == ["countb", "countc"]
    assert [str(error)[:10] for error in errors] == ["module a: "]


@pytest.mark.parametrize("text", [None, "", "-- nothing yet\n/* name of nothing */\n\n"])
def test_an_empty_folder_of_queries_is_nothing_wrong(tmp_path: Path, text: str | None) -> None:
    modules = _trio(tmp_path)
    generate(modules)
    queries, code = tmp_path / "a" / "queries" / "x.sql", tmp_path / "a" / "sql.py"
    queries.unlink()
    if text is not None:
        queries.write_text(text)
    assert [file.stale for file in generate(modules, check=True)] == [True, False, False]  # its code has a query yet
    generate(modules)
    assert "count" not in code.read_text()
    code.unlink()
    assert [(file.queries, file.stale) for file in generate(modules, check=True)] == [
        (0, False),
        (1, False),
        (1, False),
    ]
    assert len(read_statements(modules)) == 2


def test_the_command_line_names_a_broken_module_and_goes_on_with_the_others(tmp_path: Path, database: Database) -> None:
    from tests.command import erpkit

    modules = _trio(tmp_path / "trio")
    made = "\n".join(
        f"{n} = Module('{n}', migrations=_H / '{n}/migrations', queries=_H / '{n}/queries')" for n in "abc"
    )
    (tmp_path / "trio" / "__init__.py").write_text(
        f"from pathlib import Path\nfrom erpkit.modules import Module\n_H = Path(__file__).parent\n{made}\n"
    )
    (tmp_path / "trio-1.dist-info").mkdir()
    (tmp_path / "trio-1.dist-info" / "METADATA").write_text("Name: trio\nVersion: 1\n")
    (tmp_path / "trio-1.dist-info" / "entry_points.txt").write_text(
        "[trio.modules]\na = trio:a\nb = trio:b\nc = trio:c\n"
    )
    environ = {"PYTHONPATH": str(tmp_path), "ERPKIT_MODULES": "trio.modules", "ERPKIT_DATABASE": database.conninfo}
    tenant = create_tenant(database, read_migrations(modules), "acme")
    _spoil(tmp_path / "trio" / "a", "broken annotation")
    done = erpkit("queries", "generate", **environ)
    assert (done.returncode, done.stdout.count("written")) == (1, 2)
    assert done.stderr.startswith("erpkit: module a: x.sql: query Bad is :never, an unknown annotation: use :one, ")
    assert done.stderr.count("\n") == 1
    with database.connection() as connection:
        connection.execute(f"ALTER TABLE {tenant.schema}.b_rows RENAME TO other")
    done = erpkit("queries", "check", "--json", **environ)
    told = json.loads(done.stdout)
    assert (done.returncode, told["queries"], [one["query"] for one in told["broken"]]) == (3, 2, ["countb"])
    assert [one[:10] for one in told["unread"]] == ["module a: "]
    done = erpkit("queries", "check", "-o", "table", **environ)
    lines = done.stdout.splitlines()
    assert (done.returncode, "2 queries in 1 tenant: 1 broken" in lines) == (3, True)
    for name in "bc":
        _spoil(tmp_path / "trio" / name, "broken annotation")
    done = erpkit("queries", "generate", "-o", "table", **environ)
    assert (done.returncode, done.stdout, done.stderr.count("Bad is :never")) == (1, "", 3)
    assert [line.split(":")[0] for line in lines if line.startswith("!")] == ["! module a", "! acme"]


def test_queries_of_tenants_that_could_not_be_checked_are_not_counted_as_broken() -> None:
    refused = [BrokenQuery(f"t{n}", "sales", query, "permission denied") for n in range(10) for query in "abc"]
    check = QueryCheck("db", 1, 12, 3, (*refused, BrokenQuery("u", "sales", "a", "column x does not exist")))
    assert str(check) == "3 queries in 2 tenants: 1 broken; 10 tenants could not be checked"
    assert (check.facts["broken"], check.facts["tenants not checked"]) == (1, 10)
    assert check.summary.exit_code == 3
