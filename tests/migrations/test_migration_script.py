"""What is sent for a migration, and what is refused before anything is sent."""

from pathlib import Path

import pytest

from erpkit.errors import MigrationError
from erpkit.migrations import Migration, parse_migration
from erpkit.migrations.script import check_statements


def migration(text: str) -> Migration:
    return Migration("stock", 1, Path("stock/migrations/00001_step.sql"), parse_migration(f"-- +goose Up\n{text}"))


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO notes VALUES ('first;\nsecond');",  # goose sends 'INSERT INTO notes VALUES ('first;' alone
        'SELECT 1 AS "a;\nb";',
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN RETURN 1;\nEND;\n$$;",
        "SELECT 1; /* a comment;\n*/ SELECT 2;",
    ],
)
def test_a_quote_that_goose_would_cut_in_two_is_refused(text: str) -> None:
    with pytest.raises(
        MigrationError, match=r"00001_step.sql: up statement 1 \(line 2\) ends inside a quote or a comment"
    ):
        check_statements(migration(text))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 1;\n\\connect erp\nSELECT 2;", r"statement 2 \(line 3\) holds \\connect, a command of psql"),
        ("\\set ON_ERROR_STOP on\nSELECT 2;", r"statement 1 \(line 2\) holds \\set, a command of psql"),
        (
            "COPY t (a) FROM stdin;\n1;\n\\.\nSELECT 1;",
            r"statement 1 \(line 2\) copies from or to a client.*pg_dump --inserts",
        ),
    ],
)
def test_what_is_meant_for_psql_is_named(text: str, why: str) -> None:
    with pytest.raises(MigrationError, match=f"00001_step.sql: up {why}"):
        check_statements(migration(text))


def test_a_backslash_in_a_string_is_none_of_psqls() -> None:
    check_statements(migration(r"SELECT '\connect', E'\.', $$\d$$; -- \i"))


@pytest.mark.parametrize(
    "text",
    [
        "COMMIT;",
        "begin;",
        "SELECT 1; ROLLBACK;",
        "start  transaction;",
        "END;",
        "SELECT 1;\n/* a /* nested */ comment */ COMMIT /* x */;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 1; END; COMMIT;",
    ],
)
def test_a_statement_that_would_end_the_transaction_is_refused(text: str) -> None:
    with pytest.raises(MigrationError, match="a migration is one transaction"):
        check_statements(migration(text))


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO notes VALUES ('it''s; fine', E'a\\'b', $$x;'$$, $q$ ' $q$);",
        "-- +goose StatementBegin\nDO $$\nBEGIN\nRETURN;\nEND;\n$$;\n-- +goose StatementEnd",
        "CREATE FUNCTION f() RETURNS int LANGUAGE SQL BEGIN ATOMIC SELECT 1; END;",
        "SELECT 'commit;'; -- don't rollback;",
        "SAVEPOINT a; ROLLBACK TO a;",
        'SELECT "it\'s" FROM t WHERE a > $1;',
        "SELECT 1 /* a /* nested */ ; COMMIT; */;",
    ],
)
def test_what_only_looks_like_it_is_let_through(text: str) -> None:
    check_statements(migration(text))


def test_a_file_without_transaction_may_do_as_it_likes() -> None:
    text = "-- +goose NO TRANSACTION\n-- +goose Up\nBEGIN;\nCOMMIT;\n"
    check_statements(Migration("stock", 1, Path("00001_step.sql"), parse_migration(text)))
