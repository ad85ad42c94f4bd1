"""Every annotation, type and odd name of sqlc's, through generated code and the real database."""

import dataclasses
import datetime
import decimal
import importlib.util
import subprocess
import sys
import typing
import uuid
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any

import pytest

from erpkit.database import Connection, Database
from erpkit.errors import QueryError
from erpkit.migrations import read_migrations
from erpkit.modules import Module
from erpkit.queries import generate
from erpkit.tenants import create_tenant

ROOT = Path(__file__).parents[2]

SCHEMA = """-- +goose Up
CREATE TYPE zoo_mood AS ENUM ('calm', 'NULL', 'a "b", {c}\\d');
CREATE TYPE literal AS ENUM ('x');
CREATE DOMAIN zoo_weight AS numeric(8, 2) CHECK (VALUE > 0);
CREATE TYPE zoo_place AS (house text, cage integer);
CREATE TABLE zoo_animal (
    id integer PRIMARY KEY, name text, amount numeric NOT NULL, mood zoo_mood NOT NULL, moods zoo_mood[] NOT NULL DEFAULT '{}',
    weight zoo_weight, place zoo_place, photo bytea, age interval, tag uuid, seen timestamptz, fed time, flags boolean[],
    meta jsonb, "Odd Name" text, "from" integer, list text, "Class" text, kind literal NOT NULL DEFAULT 'x',
    big bigint NOT NULL DEFAULT 1
);
CREATE TABLE zoo_note (animal_id integer, line text);
CREATE TABLE zoo_meal (id integer PRIMARY KEY, animal_id integer REFERENCES zoo_animal, food text NOT NULL, portions zoo_mood[]);
CREATE VIEW zoo_heavy AS SELECT id, max(weight) AS weight FROM zoo_animal GROUP BY id;
CREATE FUNCTION zoo_nothing(n integer) RETURNS integer LANGUAGE sql AS 'SELECT NULL::integer';
-- +goose Down
"""

FACTS = """-- name: Facts :many
SELECT count(*) AS n, count(name) AS k, sum(id) AS s, sum(big) AS sb, avg(id) AS av, max(id) AS mx, min(name) AS mn,
    coalesce(max(id), 0) AS c, coalesce(sum(amount), 0) AS ca, EXISTS (SELECT 1) AS ex, 1 AS one, 1.5 AS dec, 'x' AS lit, true AS tr,
    NULL AS nu, now() AS at, current_date AS cd, (SELECT count(*) FROM zoo_note) AS sub, zoo_nothing(1) AS fn,
    (SELECT max(a.id) FROM zoo_animal a) AS subm, 1 + 1 AS two
FROM zoo_animal WHERE amount > 1000000;

-- name: Expressions :many
SELECT id, id + 1 AS p, amount * 2 AS am, amount + id AS ai, name || 'x' AS cc, name = 'x' AS cmp, id > 1 AS gt, name IS NULL AS isn,
    NOT (name = 'a') AS nn, name::text AS ct, id::text AS it, CASE WHEN id > 0 THEN amount ELSE 0 END AS cse,
    CASE WHEN id > 0 THEN 1 END AS cs, row_number() OVER () AS rn, lag(id) OVER () AS lg, upper(name) AS up, length(name) AS le,
    greatest(id, 3) AS g, (SELECT b.id FROM zoo_animal b WHERE false) AS sub, name IN ('a') AS inn, name LIKE 'a' AS lk,
    coalesce(name, mood::text) AS cm, coalesce(id, 0.5) AS ci, weight, mood, (meta ->> 'x')::integer AS mt, sum(id) OVER () AS so,
    coalesce(name, list) AS cl, name <> 'q' OR id > 0 AS orr, place, nullif(id, id) AS ni, sqlc.narg(x)::integer AS arg
FROM zoo_animal;

-- name: Derived :many
WITH w AS (SELECT count(*) AS n, max(id) AS m, sum(amount) AS total FROM zoo_animal WHERE false),
    RECURSIVE_free AS (SELECT id FROM zoo_animal UNION ALL SELECT NULL::integer)
SELECT w.n, w.m, w.total, f.id, x.name FROM w CROSS JOIN RECURSIVE_free f
CROSS JOIN (SELECT max(name) AS name FROM zoo_note, zoo_animal) x;

-- name: Deep :many
WITH RECURSIVE t AS (SELECT id, 1 AS depth FROM zoo_animal UNION ALL SELECT t.id, t.depth + 1 FROM t WHERE t.depth < 3)
SELECT id, depth FROM t;

-- name: Outer :many
SELECT a.id, m.id AS meal, n.animal_id, h.id AS heavy, h.weight FROM zoo_meal m
RIGHT JOIN (zoo_animal a LEFT JOIN zoo_note n ON n.animal_id = a.id) ON m.animal_id = a.id FULL JOIN zoo_heavy h ON false;

-- name: Righted :many
SELECT m.id AS meal, a.id FROM zoo_meal m RIGHT JOIN zoo_animal a ON m.animal_id = a.id;

-- name: RolledUp :many
SELECT id, count(*) FROM zoo_animal GROUP BY ROLLUP (id);

-- name: ListHeavy :many
SELECT * FROM zoo_heavy;

-- name: Parted :many
SELECT id FROM zoo_animal UNION SELECT animal_id FROM zoo_note;
"""

QUERIES = r'''-- name: AddAnimal :exec
INSERT INTO zoo_animal (id, name, amount, mood, moods, weight, place, photo,
    age, tag, seen, fed, flags, meta, "Odd Name", "from", list, "Class")
VALUES (sqlc.arg(id), sqlc.narg(name), sqlc.arg(amount), sqlc.arg(mood), sqlc.arg(moods), sqlc.narg(weight), sqlc.narg(place),
    sqlc.narg(photo),
    sqlc.narg(age), sqlc.narg(tag), sqlc.narg(seen), sqlc.narg(fed), sqlc.narg(flags), sqlc.narg(meta), sqlc.narg('Odd Name'),
    sqlc.narg('from'), sqlc.narg(list), sqlc.narg('Class'));

-- name: GetAnimal :one
-- It's "quoted" with """three""", a \ and 100%.
--
-- Ends with a "quote"
SELECT * FROM zoo_animal WHERE id = sqlc.arg(id);

-- name: list :many
SELECT * FROM zoo_animal WHERE list = sqlc.arg(list) OR "from" = sqlc.arg('from') OR "Odd Name" = sqlc.arg('Odd Name') ORDER BY id;

-- name: Class :many
SELECT id, name FROM zoo_animal ORDER BY id;

-- name: Others :many
SELECT id, name FROM zoo_animal ORDER BY id DESC;

-- name: UUID :many
SELECT tag FROM zoo_animal ORDER BY id;

-- name: InMoods :many
SELECT id FROM zoo_animal WHERE mood IN (sqlc.slice(moods)) ORDER BY id;

-- name: Meals :many
SELECT sqlc.embed(a), sqlc.embed(m) FROM zoo_animal a LEFT JOIN zoo_meal m ON m.animal_id = a.id ORDER BY a.id;

-- name: OnlyMeals :many
SELECT sqlc.embed(m) FROM zoo_animal a LEFT JOIN zoo_meal m ON m.animal_id = a.id ORDER BY a.id;

-- name: LastMeal :one
SELECT sqlc.embed(m) FROM zoo_animal a LEFT JOIN zoo_meal m ON m.animal_id = a.id WHERE a.id = sqlc.arg(id);

-- name: AddMeal :execresult
INSERT INTO zoo_meal (id, animal_id, food, portions) VALUES (sqlc.arg(id), sqlc.arg(animal_id), sqlc.arg(food), sqlc.narg(portions));

-- name: SetMeta :execrows
UPDATE zoo_animal SET meta = sqlc.arg(meta), name = '5% of %s' WHERE name LIKE '%' AND id % 2 = sqlc.arg(rest);

-- name: CountAnimals :one
SELECT count(*) FROM zoo_animal;

-- name: Totals :one
SELECT count(*) AS animals, coalesce(sum(amount), 0) AS amount, max(seen) AS seen FROM zoo_animal;

-- name: Kinds :many
SELECT kind FROM zoo_animal;

-- name: FedAt :one
SELECT fed FROM zoo_animal WHERE fed > sqlc.arg(time);
'''


@pytest.fixture
def zoo(tmp_path: Path) -> Module:
    for name, text in (
        ("migrations/00001_zoo.sql", SCHEMA),
        ("queries/facts.sql", FACTS),
        ("queries/zoo.sql", QUERIES),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Module("zoo", migrations=tmp_path / "migrations", queries=tmp_path / "queries")


def _generated(zoo: Module) -> ModuleType:
    (file,) = generate([zoo])
    spec = importlib.util.spec_from_file_location("zoo_sql", file.path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules["zoo_sql"] = code
    spec.loader.exec_module(code)
    return code


def _add(code: ModuleType, connection: Connection, number: int, **values: Any) -> None:
    names = [
        "name",
        "weight",
        "place",
        "photo",
        "age",
        "tag",
        "seen",
        "fed",
        "flags",
        "meta",
        "odd_name",
        "from_",
        "list",
        "class_",
    ]
    empty: dict[str, Any] = dict.fromkeys(names) | {"amount": decimal.Decimal("1.5"), "mood": "calm", "moods": []}
    code.add_animal(connection, id=number, **(empty | values))


def _matches(value: object, annotation: Any) -> bool:
    if annotation is Any:
        return True
    if isinstance(annotation, UnionType):
        return any(_matches(value, one) for one in typing.get_args(annotation))
    if typing.get_origin(annotation) is list:
        return isinstance(value, list) and all(_matches(one, typing.get_args(annotation)[0]) for one in value)
    if typing.get_origin(annotation) is typing.Literal:
        return value in typing.get_args(annotation)
    if dataclasses.is_dataclass(value):
        return type(value) is annotation and all(
            _matches(getattr(value, name), hint) for name, hint in typing.get_type_hints(type(value)).items()
        )
    return type(value) is (NoneType if annotation is None else annotation)


def test_no_result_is_other_than_its_annotation_says(database: Database, zoo: Module) -> None:
    """With rows that are as empty as the schema allows, and without any row."""
    code = _generated(zoo)
    tenant = create_tenant(database, read_migrations([zoo]), "acme")
    functions = [
        "facts",
        "expressions",
        "derived",
        "deep",
        "outer",
        "righted",
        "rolled_up",
        "list_heavy",
        "parted",
        "totals",
        "kinds",
    ]
    functions += ["meals", "only_meals", "class_", "others", "uuid_", "count_animals"]
    with database.tenant_transaction(tenant, write=True) as connection:
        for number in range(2):
            for name in functions:
                function = getattr(code, name)
                result = function(connection, None) if name == "expressions" else function(connection)
                assert _matches(result, typing.get_type_hints(function)["return"]), (name, result)
            _add(code, connection, number)
            connection.execute("INSERT INTO zoo_note VALUES (NULL, NULL)")


def test_what_is_surely_not_null_is_not_optional_and_keeps_its_type(zoo: Module) -> None:
    code = _generated(zoo)
    facts = typing.get_type_hints(code.FactsRow)
    expected: dict[str, Any] = dict.fromkeys(("n", "k", "c", "one", "sub", "two"), int)
    expected |= {"ca": decimal.Decimal, "dec": decimal.Decimal, "ex": bool, "tr": bool, "lit": str, "nu": Any}
    expected |= {"at": datetime.datetime, "cd": datetime.date, "sb": decimal.Decimal | None, "s": int | None}
    assert {name: facts[name] for name in expected} == expected
    rows = typing.get_type_hints(code.ExpressionsRow)
    assert (rows["p"], rows["ai"], rows["cc"], rows["ct"], rows["it"]) == (
        int,
        decimal.Decimal,
        str | None,
        str | None,
        str,
    )
    assert (rows["weight"], rows["cm"], rows["rn"]) == (decimal.Decimal | None, str, int)
    assert typing.get_type_hints(code.count_animals)["return"] is int
    assert typing.get_type_hints(code.totals)["return"] is code.TotalsRow


def test_every_type_and_name_goes_in_and_comes_out(database: Database, zoo: Module) -> None:
    code = _generated(zoo)
    tenant = create_tenant(database, read_migrations([zoo]), "acme")
    values: dict[str, Any] = {
        "name": "Ann", "moods": ["NULL", 'a "b", {c}\\d', "calm"], "weight": decimal.Decimal("2.50"), "photo": b"\x00%\\",
        "age": datetime.timedelta(days=3, hours=1), "tag": uuid.uuid4(), "fed": datetime.time(7, 30), "flags": [True, None],
        "seen": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "meta": {"a": [1, None, "%s"]}, "odd_name": "%", "from_": 3,
        "list": "x", "class_": "y",
    }  # fmt: skip
    with database.tenant_transaction(tenant, write=True) as connection:
        _add(code, connection, 1, **values, place=("north", 2))
        _add(code, connection, 2, mood="NULL")
        ann = code.get_animal(connection, 1)
        assert {name: getattr(ann, "list_" if name == "list" else name) for name in values} == values
        assert code.get_animal(connection, 3) is None
        assert code.list_(connection, "none", 3, None) == [ann]
        assert code.in_moods(connection, ["NULL"]) == [2]
        assert code.in_moods(connection, []) == []
        assert code.class_(connection) == [code.ClassRow(1, "Ann"), code.ClassRow(2, None)]
        assert code.uuid_(connection) == [values["tag"], None]
        assert code.add_meal(connection, 7, 1, "hay", ["calm"]).rowcount == 1
        meals = code.meals(connection)
        assert [(row.a.id, row.m) for row in meals] == [(1, code.ZooMealRow(7, 1, "hay", ["calm"])), (2, None)]
        assert code.only_meals(connection) == [meals[0].m, None]
        assert (code.last_meal(connection, 1), code.last_meal(connection, 2)) == (meals[0].m, None)
        assert code.set_meta(connection, meta=["x"], rest=1) == 1
        assert (code.get_animal(connection, 1).meta, code.get_animal(connection, 1).name) == (["x"], "5% of %s")
        assert (code.count_animals(connection), code.totals(connection).amount) == (2, decimal.Decimal("3.0"))
    assert code.get_animal.__doc__ == 'It\'s "quoted" with """three""", a \\ and 100%.\n\n    Ends with a "quote"\n    '


def test_the_code_of_odd_names_is_strictly_typed_and_formatted(zoo: Module) -> None:
    (file,) = generate([zoo])
    config = str(ROOT / "pyproject.toml")
    for command in (
        ("mypy", "--strict", "--config-file", config, str(file.path)),
        ("ruff", "check", "--config", config, str(file.path)),
        ("ruff", "format", "--check", "--config", config, str(file.path)),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (":execlastid", "is :execlastid, an unknown annotation"),
        (":nothing", "is :nothing"),
        ("many", "is many"),
        ("", "has no"),
    ],
)
def test_an_annotation_without_a_meaning_here_is_refused_by_name_and_file(
    zoo: Module, annotation: str, said: str
) -> None:
    assert zoo.queries is not None
    (zoo.queries / "odd.sql").write_text(f"-- name: Odd {annotation}\nINSERT INTO zoo_note (animal_id) VALUES ($1);")
    with pytest.raises(
        QueryError, match=rf"^module zoo: odd\.sql: query Odd {said}.*: use :one, .*:copyfrom, .*:batchmany$"
    ):
        generate([zoo])


def test_an_embedded_row_that_cannot_be_told_from_a_missing_one_is_refused(zoo: Module) -> None:
    assert zoo.queries is not None
    (zoo.queries / "odd.sql").write_text(
        "-- name: Odd :many\nSELECT sqlc.embed(n) FROM zoo_animal a LEFT JOIN zoo_note n ON n.animal_id = a.id;"
    )
    with pytest.raises(
        QueryError,
        match=r"odd\.sql: query Odd embeds n, which an outer join may leave out, and \S+ has no NOT NULL column",
    ):
        generate([zoo])
