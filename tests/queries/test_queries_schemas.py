"""Tables and types of one name in several schemas: generated code run against rows that say where they are from."""

import importlib.util
import subprocess
import sys
import typing
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from erpkit.database import Connection, Database
from erpkit.errors import QueryError
from erpkit.migrations import read_migrations
from erpkit.modules import Module
from erpkit.queries import check_queries, generate, read_statements
from erpkit.tenants import create_tenant

ROOT = Path(__file__).parents[2]

COMMON = """-- +goose Up
CREATE SCHEMA depot;
CREATE SCHEMA "Odd Schema";
CREATE TYPE depot.mood AS ENUM ('of depot', 'other');
CREATE TYPE public.mood AS ENUM ('of public', 'other');
CREATE DOMAIN depot.weight AS text;
CREATE DOMAIN public.weight AS depot.mood;
CREATE TABLE depot.users (
    id int PRIMARY KEY, name text NOT NULL, mood depot.mood NOT NULL, moods depot.mood[] NOT NULL, weight depot.weight
);
CREATE TABLE public.users (
    id int PRIMARY KEY, nick text NOT NULL, mood public.mood NOT NULL, moods public.mood[] NOT NULL, weight public.weight
);
CREATE TABLE "Odd Schema".users (id int PRIMARY KEY, "Class" text NOT NULL, "1st" int, _under int, "from" text);
CREATE TABLE public.countries (code text PRIMARY KEY);
CREATE TABLE depot.lone (id int PRIMARY KEY);
CREATE VIEW depot.stock AS SELECT id, name AS place FROM depot.users;
INSERT INTO depot.users VALUES (1, 'depot', 'of depot', '{of depot}', 'heavy');
INSERT INTO public.users VALUES (1, 'public', 'of public', '{of public}', 'of depot');
INSERT INTO "Odd Schema".users VALUES (1, 'odd', 1, 2, 'here');
"""

OWN = """-- +goose Up
CREATE TYPE mood AS ENUM ('of tenant', 'other'); -- public.mood is another
CREATE DOMAIN weight AS numeric(8, 2);
CREATE TABLE users (
    id int PRIMARY KEY, email text NOT NULL, mood mood NOT NULL, moods mood[] NOT NULL, weight weight
);
CREATE TABLE stock (id int NOT NULL, place text NOT NULL);
CREATE TABLE user_s (id int PRIMARY KEY, a int);
CREATE TABLE "userS" (id int PRIMARY KEY, b int);
INSERT INTO users VALUES (1, 'tenant', 'of tenant', '{of tenant}', 1.5);
INSERT INTO stock VALUES (1, 'tenant');
"""

QUERIES = """-- name: Tenants :many
SELECT sqlc.embed(users) FROM users;

-- name: Depots :many
SELECT sqlc.embed(users) FROM depot.users;

-- name: Publics :many
SELECT sqlc.embed(users) FROM public.users;

-- name: Odds :many
SELECT sqlc.embed(u) FROM "Odd Schema".users u;

-- name: All :many
SELECT sqlc.embed(a), sqlc.embed(b), sqlc.embed(c), 'public.users' AS said FROM users a
LEFT JOIN depot.users b ON b.id = a.id AND sqlc.arg(with_depot)::bool LEFT JOIN "public".users c ON c.id = a.id;

-- name: Pairs :many
SELECT sqlc.embed(a), sqlc.embed(b) FROM depot.users a JOIN depot.users b ON a.id = b.id;

-- name: StarTenant :many
SELECT * FROM users;

-- name: StarDepot :many
SELECT * FROM depot.users;

-- name: StarPublic :many
SELECT * FROM public.users;

-- name: Both :many
SELECT depot.users.mood, public.users.mood, depot.users.weight, public.users.weight
FROM depot.users JOIN public.users ON depot.users.id = public.users.id;

-- name: Find :many
SELECT name FROM depot.users WHERE mood = $1 AND moods = $2 AND weight = $3;

-- name: View :many
SELECT * FROM depot.stock;

-- name: Table :many
SELECT * FROM stock;

-- name: Rename :one
UPDATE depot.users SET name = sqlc.arg(name) WHERE id = sqlc.arg(id) RETURNING *;

-- name: AddPublic :one
INSERT INTO public.users (id, nick, mood, moods) VALUES ($1,$2,$3,$4) RETURNING sqlc.embed(users);

-- name: Countries :many
SELECT sqlc.embed(countries) FROM public.countries;

-- name: Lone :many
SELECT sqlc.embed(lone) FROM depot.lone AS lone;

-- name: Users :many
SELECT id, email FROM users;

-- name: Low :many
SELECT sqlc.embed(a), sqlc.embed(b) FROM user_s a JOIN "userS" b ON b.id = a.id;
"""


def _modules(folder: Path, queries: str = QUERIES) -> list[Module]:
    files = {"common/1.sql": COMMON, "own/00001_own.sql": OWN, "code/queries/users.sql": queries}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    common = Module("common", migrations=folder / "common")
    return [common, Module("users", ("common",), migrations=folder / "own", queries=folder / "code" / "queries")]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> list[Module]:
    return _modules(tmp_path_factory.mktemp("schemas"))


@pytest.fixture(scope="module")
def path(modules: list[Module]) -> Path:
    (file,) = generate(modules)
    return file.path


@pytest.fixture(scope="module")
def code(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("schemas_sql", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["schemas_sql"] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def tenant_connection(shared_database: Database, modules: list[Module]) -> Iterator[Connection]:
    with shared_database.connection() as connection:
        connection.execute(COMMON.encode())
    tenant = create_tenant(shared_database, read_migrations(modules[1:]), "acme")
    with shared_database.connection() as connection:
        for schema in ("depot", "public", '"Odd Schema"'):
            connection.execute(
                f'GRANT USAGE ON SCHEMA {schema} TO "{tenant.role}"; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO "{tenant.role}"'
            )
    assert check_queries(shared_database, [tenant], read_statements(modules)) == []
    with shared_database.tenant_transaction(tenant, write=True) as connection:
        yield connection


def test_an_embedded_row_is_of_the_table_that_the_query_names(code: ModuleType, tenant_connection: Connection) -> None:
    tenant = code.UsersRow(1, "tenant", "of tenant", ["of tenant"], Decimal("1.50"))
    depot = code.DepotUsersRow(1, "depot", "of depot", ["of depot"], "heavy")
    public = code.PublicUsersRow(1, "public", "of public", ["of public"], "of depot")
    assert code.tenants(tenant_connection) == code.star_tenant(tenant_connection) == [tenant]
    assert code.depots(tenant_connection) == code.star_depot(tenant_connection) == [depot]
    assert code.publics(tenant_connection) == code.star_public(tenant_connection) == [public]
    assert code.pairs(tenant_connection) == [code.PairsRow(depot, depot)]
    assert code.all(tenant_connection, True) == [code.AllRow(tenant, depot, public, "public.users")]
    (odd,) = code.odds(tenant_connection)
    assert (odd.id, odd.class_, odd._1st, odd._under, odd.from_) == (1, "odd", 1, 2, "here")


def test_an_outer_join_leaves_out_the_right_schemas_row(code: ModuleType, tenant_connection: Connection) -> None:
    (row,) = code.all(tenant_connection, False)
    assert (row.a.email, row.b, row.c.nick) == ("tenant", None, "public")


def test_values_go_into_and_come_out_of_the_right_table(code: ModuleType, tenant_connection: Connection) -> None:
    with tenant_connection.transaction(force_rollback=True):
        assert code.find(tenant_connection, "of depot", ["of depot"], "heavy") == ["depot"]
        assert code.rename(tenant_connection, name="new", id=1).name == "new"
        added = code.add_public(tenant_connection, 2, "Nick", "of public", ["other"])
        assert (type(added), added.nick, added.moods) == (code.PublicUsersRow, "Nick", ["other"])
        assert [row.nick for row in code.star_public(tenant_connection)] == ["public", "Nick"]
        assert [row.email for row in code.star_tenant(tenant_connection)] == ["tenant"]
        assert code.both(tenant_connection) == [code.BothRow("of depot", "of public", "heavy", "of depot")]
        assert code.users(tenant_connection) == [code.UsersRow2(1, "tenant")]


def test_types_are_those_of_their_schema(code: ModuleType) -> None:
    both = typing.get_type_hints(code.BothRow)
    assert (both["mood"], both["mood_2"]) == (code.DepotMood, code.PublicMood)
    assert (both["weight"], both["weight_2"]) == (str | None, code.DepotMood | None)
    assert typing.get_args(code.Mood) == ("of tenant", "other")
    find = typing.get_type_hints(code.find)
    assert (find["mood"], typing.get_args(find["moods"]), find["weight"]) == (
        code.DepotMood,
        (code.DepotMood,),
        str | None,
    )
    assert typing.get_type_hints(code.UsersRow)["weight"] == Decimal | None


def test_a_view_and_a_table_of_one_name_are_two_things(code: ModuleType, tenant_connection: Connection) -> None:
    assert code.view(tenant_connection) == [code.DepotStockRow(1, "depot")]
    assert code.table(tenant_connection) == [code.StockRow(1, "tenant")]
    assert typing.get_type_hints(code.DepotStockRow)["id"] == int | None
    assert typing.get_type_hints(code.StockRow)["id"] is int


def test_a_schema_stands_in_a_name_only_where_it_is_needed(code: ModuleType) -> None:
    assert typing.get_args(typing.get_type_hints(code.countries)["return"]) == (code.CountriesRow,)
    assert typing.get_args(typing.get_type_hints(code.lone)["return"]) == (code.LoneRow,)
    low = typing.get_type_hints(code.LowRow)
    assert [list(typing.get_type_hints(low[name])) for name in ("a", "b")] == [["id", "a"], ["id", "b"]]


def test_the_same_files_give_the_same_names_whatever_their_order(path: Path, tmp_path: Path) -> None:
    modules = _modules(tmp_path)
    up, *statements = COMMON.split(";\n")[0].split("\n", 1) + COMMON.split(";\n")[1:-1]
    tables = [one for one in statements if "CREATE TABLE" in one]
    others = [one for one in statements if "CREATE TABLE" not in one]
    made = [one for one in others if "INSERT" not in one and "VIEW" not in one]
    view = [one for one in others if "VIEW" in one]
    (tmp_path / "common" / "1.sql").write_text(
        "\n".join([up, *(f"{one};" for one in [*made, *reversed(tables), *view])])
    )
    (file,) = generate(modules)
    assert file.path.read_text() == path.read_text()


def test_the_code_is_strictly_typed_and_formatted(path: Path) -> None:
    config = str(ROOT / "pyproject.toml")
    for command in (
        ("mypy", "--strict", "--config-file", config, str(path)),
        ("ruff", "check", "--config", config, str(path)),
        ("ruff", "format", "--check", "--config", config, str(path)),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT public.users.* FROM public.users", "query Odd .*give the table an alias"),
        ("SELECT depot.users.*, 1 AS x FROM depot.users", r"odd\.sql:.*give the table an alias"),
        ("SELECT sqlc.embed(users) FROM users, depot.users", "query Odd embeds users, .*give each an alias"),
        ("SELECT sqlc.embed(lone) FROM depot.lone", r'"lone" does not exist .*by an alias'),
        ("SELECT id FROM public.no_such", r"odd\.sql:1:.*no_such"),
        ("SELECT nick FROM users", r"odd\.sql:2:8: column \"nick\" does not exist"),
        ("SELECT email FROM public.users", r"odd\.sql:2:8: column \"email\" does not exist"),
        ("SELECT nope FROM public.stock", r"relation \"public\.stock\" does not exist"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_file(tmp_path: Path, query: str, words: str) -> None:
    modules = _modules(tmp_path)
    (tmp_path / "code" / "queries" / "odd.sql").write_text(f"-- name: Odd :many\n{query};\n")
    with pytest.raises(QueryError, match=words):
        generate(modules)
