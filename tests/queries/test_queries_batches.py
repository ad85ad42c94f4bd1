"""Many rows of parameters at once: COPY and batches in a pipeline, through generated code and the real database."""

import importlib.util
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.errors import QueryError
from erpkit.migrations import read_migrations
from erpkit.modules import Module
from erpkit.queries import check_queries, generate, read_statements
from erpkit.tenants import create_tenant

ROOT = Path(__file__).parents[2]

SCHEMA = """-- +goose Up
CREATE TYPE mood AS ENUM ('calm', 'a "b", {c}\\d', 'NULL');
CREATE DOMAIN weight AS numeric(8, 2) CHECK (VALUE > 0);
CREATE TYPE spot AS (house text, cage integer);
CREATE TABLE crate (
    id bigint GENERATED ALWAYS AS IDENTITY, code integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (code * 2) STORED,
    name text, mood mood, moods mood[], weight weight, spot spot, day date, at timestamptz, meta jsonb, metas jsonb[], plain json,
    tags text[], grid integer[], photo bytea, flag boolean, "class" text, "from" text, "1st" integer, __under integer, "50%" text
);
CREATE TABLE crate_note (crate integer, line text NOT NULL);
CREATE VIEW crate_names AS SELECT code, name FROM crate;
"""

QUERIES = """-- name: CopyCrates :copyfrom
-- Copies "crates".
INSERT INTO crate (code, name, mood, moods, weight, spot, day, at, meta, metas, plain, tags, grid, photo, flag, "class", "from",
    "1st", __under, "50%")
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20);

-- name: CopyNotes :copyfrom
INSERT INTO crate_note (line, crate) VALUES (sqlc.arg(line), sqlc.arg(crate));

-- name: CopyCodes :copyfrom
INSERT INTO crate (code) VALUES ($1);

-- name: CopyIds :copyfrom
INSERT INTO crate (id, code) OVERRIDING SYSTEM VALUE VALUES ($1,$1);

-- name: AddNotes :batchexec
INSERT INTO crate_note (crate, line) VALUES (sqlc.narg(crate), sqlc.arg(line));

-- name: SetMetas :batchexec
UPDATE crate SET meta = sqlc.narg(meta), day = sqlc.narg(date), name = '5%' WHERE code = sqlc.arg(list);

-- name: AddCodes :batchone
INSERT INTO crate (code) VALUES (sqlc.arg(code)) RETURNING code, twice;

-- name: FindCrates :batchone
SELECT * FROM crate WHERE code = $1;

-- name: CountNotes :batchone
SELECT count(*) FROM crate_note WHERE crate = $1;

-- name: FindMoods :batchone
SELECT moods FROM crate WHERE code = $1;

-- name: ListNotes :batchmany
SELECT line FROM crate_note WHERE crate = $1 ORDER BY line;

-- name: ListPairs :batchmany
SELECT sqlc.embed(c), sqlc.embed(n) FROM crate c LEFT JOIN crate_note n ON n.crate = c.code
WHERE c.code IN (sqlc.slice(codes)) AND n.line >= sqlc.arg('class') ORDER BY c.code, n.line;

-- name: ListCodes :many
SELECT id, code, twice FROM crate ORDER BY code;
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Module:
    folder = tmp_path_factory.mktemp("crates")
    for name, text in (("migrations/00001_crates.sql", SCHEMA), ("queries/crates.sql", QUERIES)):
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return Module("crates", migrations=folder / "migrations", queries=folder / "queries")


@pytest.fixture(scope="module")
def code(module: Module) -> ModuleType:
    (file,) = generate([module])
    spec = importlib.util.spec_from_file_location("crates_sql", file.path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["crates_sql"] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def tenant(shared_database: Database, module: Module, code: ModuleType) -> Tenant:
    return create_tenant(shared_database, read_migrations([module]), "acme")


@pytest.fixture
def connection(shared_database: Database, tenant: Tenant) -> Iterator[Connection]:
    """A tenant's transaction, of which nothing stays."""
    with (
        shared_database.tenant_transaction(tenant, write=True) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


def _crate(code: ModuleType, number: int, **values: Any) -> Any:
    names = code.CopyCratesParams.__dataclass_fields__
    return code.CopyCratesParams(**(dict.fromkeys(names) | {"code": number} | values))


def test_a_copy_carries_every_type_and_null(code: ModuleType, connection: Connection) -> None:
    values: dict[str, Any] = {
        "name": "tab\tnewline\n\\N \\. ü", "mood": 'a "b", {c}\\d', "moods": ["NULL", 'a "b", {c}\\d'], "weight": Decimal("2.50"),
        "day": date(2026, 1, 2), "meta": {"a": [None, "\\", "%s"]}, "metas": [{"a": 1}, "x"], "plain": ["\n"],
        "tags": ["NULL", "", 'a,"b"\\'], "grid": [1, 2], "photo": b"\x00\\N\n", "flag": False, "class_": "x", "from_": "y", "_1st": 1,
        "_under": 2, "_50_": "50%",
    }  # fmt: skip
    rows = (
        row for row in [_crate(code, 1, **values, spot=("north", 3)), _crate(code, 2), _crate(code, 3, meta=0, tags=[])]
    )
    assert code.copy_crates(connection, rows) == 3
    full, empty, third = code.find_crates(connection, [1, 2, 3])
    assert {name: getattr(full, name) for name in values} == values
    assert connection.execute("SELECT (spot).cage FROM crate WHERE code = 1").fetchone() == (3,)
    assert {getattr(empty, name) for name in values} == {None}
    assert (third.meta, third.tags, third.twice) == (0, [], 6)
    assert code.find_moods(connection, [1, 2, 4]) == [["NULL", 'a "b", {c}\\d'], None, None]
    assert code.copy_crates.__doc__ == 'Copies "crates".'


def test_a_copy_leaves_generated_columns_to_the_server(code: ModuleType, connection: Connection) -> None:
    assert code.copy_codes(connection, range(3)) == 3
    assert code.copy_ids(connection, [70]) == 1
    assert [(row.code, row.twice) for row in code.list_codes(connection)] == [(0, 0), (1, 2), (2, 4), (70, 140)]
    assert code.list_codes(connection)[-1].id == 70
    assert code.copy_codes(connection, []) == 0


def test_a_broken_row_ends_a_copy_and_names_its_line(code: ModuleType, connection: Connection) -> None:
    rows = [code.CopyNotesParams(line="x", crate=None), code.CopyNotesParams(line=None, crate=None)]
    with pytest.raises(psycopg.errors.NotNullViolation, match="line 2"), connection.transaction():
        code.copy_notes(connection, rows)
    with pytest.raises(ZeroDivisionError), connection.transaction():
        code.copy_codes(connection, (1 // (2 - n) for n in range(3)))
    assert code.list_codes(connection) == []
    assert code.copy_codes(connection, [1]) == 1


def test_a_long_copy_streams_and_is_about_as_fast_as_the_drivers(code: ModuleType, connection: Connection) -> None:
    count = 100_000
    tracemalloc.start()
    assert code.copy_codes(connection, range(count)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
    notes = [code.CopyNotesParams(line=f"line {n}", crate=n) for n in range(count)]
    ratios = []
    for _ in range(3):
        started = time.perf_counter()
        with connection.cursor() as cursor, cursor.copy("COPY crate_note (line, crate) FROM STDIN") as copy:
            for note in notes:
                copy.write_row((note.line, note.crate))
        bare = time.perf_counter() - started
        started = time.perf_counter()
        assert code.copy_notes(connection, notes) == count
        ratios.append(bare / (time.perf_counter() - started))
    print(f"COPY of {count} rows: {max(ratios):.2f} of the driver's speed")
    assert max(ratios) > 0.5


def test_a_batch_gives_a_result_for_each_element(code: ModuleType, connection: Connection) -> None:
    assert code.add_codes(connection, [3, 1, 2]) == [
        code.AddCodesRow(3, 6),
        code.AddCodesRow(1, 2),
        code.AddCodesRow(2, 4),
    ]
    notes = [code.AddNotesParams(crate=n % 2 + 1, line=f"note {n}") for n in range(3)]
    assert code.add_notes(connection, iter(notes)) == [1, 1, 1]
    changes = [
        code.SetMetasParams(meta=["a"], date_=None, list_=1),
        code.SetMetasParams(meta=None, date_=None, list_=9),
    ]
    assert code.set_metas(connection, changes) == [1, 0]
    first, missing = code.find_crates(connection, [1, 9])
    assert (first.code, first.meta, first.name, missing) == (1, ["a"], "5%", None)
    assert code.count_notes(connection, [1, 2, 3]) == [2, 1, 0]
    assert code.list_notes(connection, [1, 3, 2]) == [["note 0", "note 2"], [], ["note 1"]]
    pairs = code.list_pairs(connection, [code.ListPairsParams([1, 2], "note 1"), code.ListPairsParams([], "")])
    assert [[(pair.c.code, pair.n.line) for pair in some] for some in pairs] == [[(1, "note 2"), (2, "note 1")], []]
    assert code.list_notes(connection, []) == []


def test_a_thousand_elements_take_few_round_trips(code: ModuleType, connection: Connection, tmp_path: Path) -> None:
    """The client waits for the server where it sends a Sync or a Flush."""
    code.copy_codes(connection, range(1_000))
    with _traced(connection, tmp_path / "loop"):
        for number in range(10):
            connection.execute(code.FIND_MOODS, {"code": number})
    with _traced(connection, tmp_path / "batch"):
        assert code.find_moods(connection, range(1_000)) == [None] * 1_000
    waits = _waits(tmp_path / "batch")
    started = time.perf_counter()
    for number in range(1_000):
        connection.execute(code.FIND_MOODS, {"code": number}).fetchall()
    loop = time.perf_counter() - started
    started = time.perf_counter()
    code.find_moods(connection, range(1_000))
    print(f"1,000 elements: {waits} waits, {loop / (time.perf_counter() - started):.1f} times as fast as a loop")
    assert _waits(tmp_path / "loop") == 10
    assert waits <= 4


@contextmanager
def _traced(connection: Connection, path: Path) -> Iterator[None]:
    with path.open("w") as file:
        connection.pgconn.trace(file.fileno())
        try:
            yield
        finally:
            connection.pgconn.untrace()


def _waits(trace: Path) -> int:
    return sum("\tF\t" in line and line.endswith(("\tSync", "\tFlush")) for line in trace.read_text().splitlines())


def test_a_batch_longer_than_what_is_sent_at_once_keeps_its_order(code: ModuleType, connection: Connection) -> None:
    assert [row.code for row in code.add_codes(connection, (n for n in range(2_500)))] == list(range(2_500))


@pytest.mark.parametrize("number", [0, 500, 1_700])
def test_an_error_in_a_tenants_transaction_names_the_element_and_nothing_stays(
    code: ModuleType, shared_database: Database, tenant: Tenant, number: int
) -> None:
    batch = [code.AddNotesParams(crate=None, line=None if n == number else "x") for n in range(2_000)]
    with (
        pytest.raises(
            psycopg.errors.NotNullViolation, match=rf"^element {number + 1} of the batch \(index {number}\): null value"
        ),
        shared_database.tenant_transaction(tenant, write=True) as connection,
    ):
        code.add_notes(connection, batch)
    with shared_database.tenant_transaction(tenant) as connection:
        assert connection.execute("SELECT count(*) FROM crate_note").fetchone() == (0,)


def test_a_transaction_goes_on_after_a_batch_that_failed_in_a_savepoint(
    code: ModuleType, connection: Connection
) -> None:
    code.copy_codes(connection, [1])
    with pytest.raises(psycopg.errors.UniqueViolation, match="element 2 of") as raised, connection.transaction():
        code.add_codes(connection, [2, 1, 3])
    assert raised.value.diag.constraint_name == "crate_pkey"
    assert [row.code for row in code.list_codes(connection)] == [1]
    assert code.add_codes(connection, [2]) == [code.AddCodesRow(2, 4)]


def test_what_cannot_be_sent_is_named_as_well(code: ModuleType, connection: Connection) -> None:
    for wrong in (object(), "nul \x00", "\ud800"):
        batch = [code.AddNotesParams(crate=None, line=line) for line in ("fine", wrong, "fine")]
        with pytest.raises(Exception, match=r"element 2 of the batch \(index 1\)"), connection.transaction():
            code.add_notes(connection, batch)
    assert code.list_notes(connection, [1]) == [[]]


def test_an_error_of_the_iterable_stays_what_it_is(code: ModuleType, connection: Connection) -> None:
    with pytest.raises(ZeroDivisionError, match="^integer"), connection.transaction():
        code.add_codes(connection, (1 // (2 - n) for n in range(3)))
    assert code.list_codes(connection) == []


def test_outside_of_a_transaction_a_batch_is_all_or_nothing(
    code: ModuleType, shared_database: Database, tenant: Tenant
) -> None:
    with shared_database.connection() as connection:
        connection.execute(f"SET search_path = {tenant.schema}")
        with pytest.raises(psycopg.errors.UniqueViolation, match=r"element 1,?502 of"):
            code.add_codes(connection, [*range(1_501), 7])
        assert code.list_codes(connection) == []
        assert code.add_codes(connection, [1]) == [code.AddCodesRow(1, 2)]
        connection.execute("DELETE FROM crate")


def test_the_check_plans_copies_and_batches_under_the_tenants_role(
    shared_database: Database, module: Module, tenant: Tenant, code: ModuleType
) -> None:
    statements = read_statements([module])
    assert {"copy_crates", "copy_ids", "list_pairs", "add_notes"} <= {one.name for one in statements}
    assert check_queries(shared_database, [tenant], statements) == []
    with shared_database.connection() as connection:
        connection.execute(f'REVOKE INSERT ON {tenant.schema}.crate FROM "{tenant.role}"')
        connection.execute(f"ALTER TABLE {tenant.schema}.crate_note RENAME COLUMN line TO text")
        try:
            broken = {one.query: one.error for one in check_queries(shared_database, [tenant], statements)}
        finally:
            connection.execute(f'GRANT INSERT ON {tenant.schema}.crate TO "{tenant.role}"')
            connection.execute(f"ALTER TABLE {tenant.schema}.crate_note RENAME COLUMN text TO line")
    assert {name: broken.get(name) for name in ("copy_codes", "add_codes")} == dict.fromkeys(
        ("copy_codes", "add_codes"), "permission denied for table crate"
    )
    assert broken["copy_notes"] == 'column "line" of relation "crate_note" does not exist'
    assert set(broken) == {
        "copy_crates",
        "copy_codes",
        "copy_ids",
        "copy_notes",
        "add_codes",
        "add_notes",
        "list_notes",
        "list_pairs",
    }


def test_a_copy_into_a_generated_column_is_found_by_the_check(
    shared_database: Database, module: Module, tenant: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "a.sql").write_text(
        "-- name: Bad :copyfrom\nINSERT INTO crate (code, twice) VALUES ($1, $2);"
    )
    bad = Module("bad", migrations=module.migrations, queries=tmp_path / "queries")
    generate([bad])
    (broken,) = check_queries(shared_database, [tenant], read_statements([bad]))
    assert (broken.query, broken.error) == ("bad", 'cannot insert a non-DEFAULT value into column "twice"')


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "copyfrom\nINSERT INTO crate (code) VALUES ($1), ($2)",
            "module x: sqlc: .*a.sql:1:1: :copyfrom requires exactly one",
        ),
        (
            "copyfrom\nINSERT INTO crate (code, name) VALUES ($1, 'x')",
            "a.sql:1:1: :copyfrom doesn't support non-parameter values",
        ),
        ("copyfrom\nINSERT INTO crate (code) VALUES ($1) ON CONFLICT DO NOTHING", "a.sql:1:1: .*ON CONFLICT"),
        ("copyfrom\nUPDATE crate SET code = $1", "a.sql:1:1: :copyfrom requires an INSERT"),
        (
            "copyfrom\nINSERT INTO crate (code, tags[1]) VALUES ($1, $2)",
            "module x: a.sql: query Bad is not an INSERT .* use :batchexec",
        ),
        (
            "copyfrom\nINSERT INTO crate (id) OVERRIDING USER VALUE VALUES ($1)",
            "query Bad is not an INSERT .* use :batchexec",
        ),
        (
            "copyfrom\nINSERT INTO crate_names (code, name) VALUES ($1, $2)",
            "query Bad fills crate_names, which is a view",
        ),
        ("batchexec\nDELETE FROM crate", "a.sql:1:1: :batch. commands require parameters"),
    ],
)
def test_what_cannot_be_sent_at_once_is_refused(module: Module, tmp_path: Path, query: str, words: str) -> None:
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "a.sql").write_text(f"-- name: Bad :{query};\n")
    with pytest.raises(QueryError, match=words):
        generate([Module("x", migrations=module.migrations, queries=tmp_path / "queries")])


def test_the_code_is_strictly_typed_and_formatted(code: ModuleType) -> None:
    config = str(ROOT / "pyproject.toml")
    for command in (
        ("mypy", "--strict", "--config-file", config, str(code.__file__)),
        ("ruff", "check", "--config", config, str(code.__file__)),
        ("ruff", "format", "--check", "--config", config, str(code.__file__)),
    ):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
