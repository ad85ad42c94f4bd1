"""goose's file rules, case by case."""

import pytest

from erpkit.errors import MigrationError
from erpkit.migrations import parse_migration


def test_a_file_splits_into_statements_at_semicolons_that_end_a_line() -> None:
    parsed = parse_migration(
        "-- +goose Up\nCREATE TABLE a (id int);\nINSERT INTO a\nVALUES (1);\n-- +goose Down\nDROP TABLE a;\n"
    )
    assert parsed.up == ("CREATE TABLE a (id int);", "INSERT INTO a\nVALUES (1);")
    assert parsed.down == ("DROP TABLE a;",)
    assert parsed.use_transaction


def test_a_block_keeps_its_semicolons() -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN 1;\nEND;\n$$;"
    assert parse_migration(f"-- +goose Up\n-- +goose StatementBegin\n{body}\n-- +goose StatementEnd\n").up == (body,)


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        (
            "-- +goose Up\nSELECT 1; -- a comment; with semicolons;\nSELECT 2;",
            ("SELECT 1; -- a comment; with semicolons;", "SELECT 2;"),
        ),
        ("-- +goose Up\nSELECT ';\n';", ("SELECT ';", "';")),
        ("-- +goose Up\nSELECT 1; SELECT 2;\n", ("SELECT 1; SELECT 2;",)),
        ("-- +goose Up\n-- before\n\nSELECT 1\n-- inside\n;\n", ("SELECT 1\n-- inside\n;",)),
        ("-- +goose up\r\nSELECT 1;\r\n", ("SELECT 1;",)),
        ("\n  \n-- a heading\n-- +goose UP\nSELECT 1;", ("SELECT 1;",)),
        ("-- +goose Up\n", ()),
    ],
)
def test_lines_are_read_as_goose_reads_them(text: str, statements: tuple[str, ...]) -> None:
    assert parse_migration(text).up == statements


def test_no_transaction_holds_for_the_whole_file() -> None:
    assert not parse_migration(
        "-- +goose Up\nSELECT 1;\n-- +goose Down\n-- +goose NO TRANSACTION\nSELECT 2;"
    ).use_transaction


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'-- [+]goose Up' is missing"),
        ("SELECT 1;", "line 1: SQL before"),
        ("-- +goose Up\nSELECT 1;\n-- +goose Up\n", "line 3: a second"),
        ("-- +goose Down\n", "line 1: '-- [+]goose Down'"),
        ("-- +goose Up\n-- +goose Down\n-- +goose Down\n", "line 3"),
        ("-- +goose Up\nSELECT 1\n", "semicolon missing"),
        ("-- +goose Up\nSELECT 1\n-- +goose Down\n", "before line 3: 'SELECT 1'"),
        ("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n", "StatementEnd' is missing"),
        ("-- +goose Up\n-- +goose StatementEnd\n", "without a StatementBegin"),
        ("-- +goose StatementBegin\n", "must follow"),
        ("-- +goose Up\n -- +goose Down\n", "must start the line"),
        ("-- +goose Up\n-- +goose Sideways\n", "no annotation"),
        ("-- +goose Up\n-- +goose\n", "no annotation"),
        ("-- +goose Up +goose Up\n", "no annotation"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(MigrationError, match=problem):
        parse_migration(text)
