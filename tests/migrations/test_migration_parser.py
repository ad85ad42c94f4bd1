"""goose's file rules (v3.27), case by case; what is expected here is what goose's own parser answered."""

import re

import pytest

from erpkit.errors import MigrationError
from erpkit.migrations import parse_migration

UP = "-- +goose Up\n"
ENVSUB = f"{UP}-- +goose ENVSUB ON\n"
ENVIRON = {
    "NAME": "stock",
    "EMPTY": "",
    "DIGITS": "0123456789",
    "TWO": "1\n, 2;",
    "SECRET": "s3cret",
    "PLACE": "Orléans",
}


def up(text: str) -> tuple[str, ...]:
    return parse_migration(text, ENVIRON).up


def refusal(text: str) -> str:
    with pytest.raises(MigrationError) as caught:
        parse_migration(text, ENVIRON)
    return str(caught.value)


def test_a_file_splits_into_statements_at_semicolons_that_end_a_line() -> None:
    parsed = parse_migration(
        "-- +goose Up\nCREATE TABLE a (id int);\nINSERT INTO a\nVALUES (1);\n-- +goose Down\nDROP TABLE a;\n"
    )
    assert parsed.up == ("CREATE TABLE a (id int);", "INSERT INTO a\nVALUES (1);")
    assert parsed.down == ("DROP TABLE a;",)
    assert parsed.use_transaction
    assert not parsed.uses_environment


def test_each_statement_knows_the_line_that_it_starts_on() -> None:
    parsed = parse_migration(f"-- a heading\n{UP}\n-- before\nSELECT 1;\n  \n\nSELECT\n2;\n-- +goose Down\nSELECT 3;")
    assert parsed.up == ("SELECT 1;", "SELECT\n2;")
    assert (parsed.up_lines, parsed.down_lines) == ((5, 8), (11,))


def test_a_block_keeps_its_semicolons() -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  RETURN 1;\nEND;\n$$;"
    assert up(f"{UP}-- +goose StatementBegin\n{body}\n-- +goose StatementEnd\n") == (body,)


def test_a_block_needs_no_semicolon_and_takes_in_what_stood_open_before_it() -> None:
    assert up(f"{UP}SELECT\n-- +goose StatementBegin\n1\n-- +goose StatementEnd\n") == ("SELECT\n1",)


def test_an_empty_block_is_no_statement() -> None:
    empty = "-- +goose StatementBegin\n-- nothing yet\n\n-- +goose StatementEnd\n"
    assert parse_migration(f"{UP}{empty}-- +goose Down\n{empty}").statements("up") == ()


def test_a_line_that_goose_would_skip_without_a_word_is_refused() -> None:
    text = f"{UP}-- +goose StatementBegin\n-- +goose StatementEnd\nDROP TABLE a;\n"
    assert refusal(text).startswith("line 4: goose skips this line")


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("SELECT 1; -- a comment; with semicolons;\nSELECT 2;", ("SELECT 1; -- a comment; with semicolons;", "SELECT 2;")),
        ("SELECT 1; --\nSELECT 2;--no comment\n;", ("SELECT 1; --", "SELECT 2;--no comment\n;")),
        ("SELECT ';\n';", ("SELECT ';", "';")),
        ("/* one; */ SELECT 1;\n/* two;\n*/;", ("/* one; */ SELECT 1;", "/* two;", "*/;")),
        ("SELECT $$;\n$$;", ("SELECT $$;", "$$;")),
        ("SELECT 1; SELECT 2;\n", ("SELECT 1; SELECT 2;",)),
        ("-- before\n\n  -- and\nSELECT 1\n-- inside\n\n;\n", ("SELECT 1\n-- inside\n\n;",)),
        ("  \n-- kept: blanks began the statement\nSELECT 1;", ("-- kept: blanks began the statement\nSELECT 1;",)),
        (";", (";",)),
        ("SELECT 1;\t\u3000\n", ("SELECT 1;",)),
        ("SELECT 1\x1c;\n", ("SELECT 1\x1c;",)),
        ("SELECT 1; \x1c\n;", ("SELECT 1; \x1c\n;",)),
        ("SELECT '\u2028\x85';\n", ("SELECT '\u2028\x85';",)),
        ("SELECT 1;\r\nSELECT\r\n2;\r\n", ("SELECT 1;", "SELECT\n2;")),
        ("SELECT 1;\rSELECT 2;\r\r\n", ("SELECT 1;\rSELECT 2;",)),
        ("", ()),
    ],
)  # fmt: skip
def test_lines_are_read_as_goose_reads_them(text: str, statements: tuple[str, ...]) -> None:
    assert up(UP + text) == statements


@pytest.mark.parametrize(
    "annotation",
    ["-- +goose up", "--+goose UP", "-- +goose   uP\t", "---- +goose Up --", "-- Up +goose", "\x0b-- +goose Up", "-- +goose Up\r"],
)  # fmt: skip
def test_an_annotation_is_known_in_any_case_and_with_other_dashes_and_blanks(annotation: str) -> None:
    assert up(f"\n  \n-- a heading\n{annotation}\nSELECT 1;") == ("SELECT 1;",)


def test_an_annotation_is_one_inside_a_function_and_in_a_comment_at_a_lines_end_it_is_none() -> None:
    body = "CREATE FUNCTION f() ... AS $$\n-- +goose Down\n$$;"
    assert refusal(f"{UP}-- +goose StatementBegin\n{body}\n-- +goose StatementEnd\n").startswith("line 4: ")
    assert "not an annotation" in refusal(f"{UP}SELECT 1\n-- see +goose docs\n;")
    assert up(f"{UP}SELECT 1 -- +goose Down\n;") == ("SELECT 1 -- +goose Down\n;",)


@pytest.mark.parametrize(
    "place", ["{0}{up}{a}{down}{b}", "{up}{0}{a}{down}{b}", "{up}{a}{down}{0}{b}", "{up}{a}{down}{b}{0}"]
)
def test_no_transaction_holds_for_the_whole_file(place: str) -> None:
    parts = {"up": UP, "a": "SELECT 1;\n", "down": "-- +goose Down\n", "b": "SELECT 2;\n"}
    assert parse_migration(place.format("", **parts)).use_transaction
    assert not parse_migration(place.format("-- +goose no transaction\n", **parts)).use_transaction


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'-- +goose Up' is missing"),
        ("-- a comment\n\n", "'-- +goose Up' is missing"),
        ("SELECT 1;", "line 1: SQL before"),
        ("\ufeff-- +goose Up\nSELECT 1;", "line 1: the file starts with a byte order mark"),
        ("-- +goose Up\nSELECT 1;\n-- +goose Up\n", "line 3: a second"),
        ("-- +goose Up\n-- +goose Down\n-- +goose Up\n", "line 3: a second"),
        ("-- +goose Down\n", "line 1: '-- +goose Down'"),
        ("-- +goose Up\n-- +goose Down\n-- +goose Down\n", "line 3"),
        ("-- +goose Up\nSELECT 1\n", "semicolon missing"),
        ("-- +goose Up\nSELECT 1\n-- +goose Down\n", "before line 3: 'SELECT 1'"),
        ("-- +goose Up\n-- +goose Down\nSELECT 1; SELECT 2\n", "at the end of the file: 'SELECT 1; SELECT 2'"),
        ("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n", "StatementEnd' is missing"),
        ("-- +goose Up\n-- +goose StatementBegin\n-- +goose StatementBegin\n", "line 3"),
        ("-- +goose Up\n-- +goose StatementEnd\n", "without a StatementBegin"),
        ("-- +goose StatementBegin\n", "must follow"),
        ("-- +goose Up\n -- +goose Down\n", "line 2: an annotation must start the line"),
        ("-- +goose Up\n\t-- +goose Down\n", "must start the line"),
        ("-- +goose Up\n-- +goose Sideways\n", "not an annotation"),
        ("-- +goose Up\n-- +goose Up now\n", "not an annotation"),
        ("-- +goose Up\n-- +goose\n", "not an annotation"),
        ("-- +goose Up +goose Up\n", "not an annotation"),
        ("-- +goose Up\n-- +Goose Down\nSELECT 1", "semicolon missing"),
        ("-- +goose Up\n-- +goose ENVSUB\n", "not an annotation"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(text: str, problem: str) -> None:
    assert problem in refusal(text)


def test_a_line_is_as_long_as_gooses_buffer_at_most() -> None:
    longest = 4 * 1024 * 1024 - 1
    for ending in ("", "\n"):
        assert len(up(f"{UP}{'é' * ((longest - 1) // 2)};{ending}")[0]) == longest // 2 + 1
        assert refusal(f"{UP}{'x' * longest};{ending}").startswith("line 2: longer than the 4 MiB")
    assert "line 2" in refusal(f"{UP}{'x' * (longest - 1)};\r\n")


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("$NAME ${NAME} $NAME_x-$NAMEx", "stock stock -"),
        ("$NOT_SET|${NOT_SET}|${EMPTY}", "||"),
        ("${NAME:-d} ${EMPTY:-d} ${NOT_SET:-d} ${NOT_SET:-}", "stock d d "),
        ("${NAME-d} ${EMPTY-d} ${NOT_SET-d}", "stock  d"),
        ("${NOT_SET:-${EMPTY:-a $NAME b}}}", "a stock b}"),
        ("${NAME?no} ${EMPTY?no} ${NAME:-${NOT_SET?not needed}}", "stock  stock"),
        ("${DIGITS:2} ${DIGITS:2:3} ${DIGITS: -3} ${DIGITS:-3}", "23456789 234 789 0123456789"),
        ("${DIGITS: -3:2} ${DIGITS:1:-2} ${DIGITS:9:-5} ${DIGITS:99} ${DIGITS: -99:1}", "78 1234567   0"),
        ("${DIGITS:+3} ${NOT_SET:1:2}", "3456789 "),
        ("${PLACE:0:5} ${PLACE:5}", "Orlé ans"),
        ("$$NAME \\$NAME $$$NAME $$$$", "$NAME $NAME $stock $$"),
        ("\\\\$NAME \\n $(NAME) 1$", "\\\\stock \\n $(NAME) 1$"),
    ],
)
def test_variables_are_filled_in_by_the_rules_of_gooses_library(written: str, expanded: str) -> None:
    assert up(f"{ENVSUB}SELECT '{written}\n';") == (f"SELECT '{expanded}\n';",)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("$1", "a name must follow '$'"),
        ("$_NAME", "a name must follow '$'"),
        ("${}", "a name must follow '$'"),
        ("AS $function$ BEGIN", "a name must follow '$'"),
        ("${NAME", "after the name may stand"),
        ("${NAME:-$NAME", "closing brace"),
        ("${NAME+d}", "after the name may stand"),
        ("${NAME:+d}", "'+d' is not a whole number"),
        ("${NAME:?e}", "'?e' is not a whole number"),
        ("${NAME:1:x}", "'x' is not a whole number"),
        ("${NAME:1_0}", "'1_0' is not a whole number"),
        ("${NAME:1", "is not a whole number"),
        ("${PLACE:0:4}", "not valid UTF-8, or was cut"),
        ("${NOT_SET?}", "$NOT_SET: not set"),
        ("${NOT_SET?set it to $SECRET}", "$NOT_SET: set it to $SECRET"),
    ],
)
def test_a_variable_that_cannot_be_filled_in_is_refused_with_its_line(written: str, problem: str) -> None:
    message = refusal(f"{ENVSUB}SELECT 1;\nSELECT '{written}';")
    assert message.startswith("line 4: environment substitution: ")
    assert problem in message
    assert "s3cret" not in message


def test_variables_are_filled_in_only_between_on_and_off_and_in_both_directions() -> None:
    parsed = parse_migration(
        "-- +goose Up\nSELECT '$NAME';\n-- +goose envsub on\nSELECT\n-- $NAME\n'$NAME';\n-- +goose ENVSUB OFF\n"
        "SELECT '$1';\n-- +goose ENVSUB ON\n-- +goose Down\nSELECT '$NAME';",
        ENVIRON,
    )
    assert parsed.up == ("SELECT '$NAME';", "SELECT\n-- stock\n'stock';", "SELECT '$1';")
    assert parsed.down == ("SELECT 'stock';",)
    assert parsed.uses_environment


def test_a_comment_before_a_statement_is_dropped_before_its_variables_are_looked_at() -> None:
    assert up(f"{ENVSUB}-- costs $5\nSELECT 1;") == ("SELECT 1;",)


def test_what_a_variable_holds_can_end_a_statement() -> None:
    assert up(f"{ENVSUB}SELECT $TWO\nSELECT 3;") == ("SELECT 1\n, 2;", "SELECT 3;")


def test_nothing_is_set_unless_an_environment_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "from the process")
    assert parse_migration(f"{ENVSUB}SELECT '$NAME';").up == ("SELECT '';",)


def test_an_error_shows_a_line_as_it_was_written_and_not_the_values_in_it() -> None:
    message = refusal(f"{ENVSUB}SELECT '$SECRET'\n")
    assert "SELECT '$SECRET'" in message
    assert not re.search("s3cret", message)
