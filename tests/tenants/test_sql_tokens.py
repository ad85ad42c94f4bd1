"""The tokens of a SQL text: hypothesis hides words where they mean nothing, and what is written anew means the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erpkit.errors import UsageError
from erpkit.tenants.reading_sql import find_reach
from erpkit.tenants.sql_tokens import read_tokens, write
from erpkit.tenants.statement import read_statement

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
_STEADY = settings(deadline=None, database=None, derandomize=True)  # a loaded machine is slow, and a test has no memory
_HIDDEN = st.sampled_from(
    ["pg_sleep(1)", "set_config('role', 'none', true)", "; DROP TABLE x", "FOR UPDATE", "U&'x'", "/* ", "*/", "--"]
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def dollar(text: str) -> str:
    tag = next(f"$q{n}$" for n in range(99) if f"$q{n}$" not in text + "$q")
    return f"{tag}{text.removesuffix('$')}{tag}"


@_STEADY
@given(_TEXT, _HIDDEN, _TEXT)
def test_a_word_in_a_string_a_comment_or_a_quoted_name_triggers_nothing(before: str, word: str, after: str) -> None:
    hidden = f"{before}{word}{after}"
    comment = hidden.replace("/*", "").replace("*/", "").replace("/", "").replace("*", "")
    line = hidden.replace("\n", " ").replace("\r", " ")
    name = hidden.replace('"', "")
    query = f'SELECT {quoted(hidden)} AS "{name}", {dollar(hidden)} /* {comment} */ -- {line}\n, 1'
    statement = read_statement(query)
    reach = find_reach(statement.tokens)
    assert (reach.calls, reach.fields, reach.operators) == (frozenset(), frozenset(), frozenset())
    assert [token.value for token in statement.tokens if token.is_string] == [hidden, hidden.removesuffix("$")]


@_STEADY
@given(_TEXT)
def test_any_text_is_refused_or_reads_the_same_when_written_anew(text: str) -> None:
    try:
        tokens = read_tokens(text)
    except UsageError:
        return
    again = read_tokens(write(tokens))
    assert [(token.is_name, token.is_string, token.value) for token in again] == [
        (token.is_name, token.is_string, token.value) for token in tokens
    ]
    assert write(again) == write(tokens)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a--1\n", "a"),
        ("a-/*b*/-1", "a - - 1"),
        ("a*-1", "a * - 1"),
        ("a@-1", "a @- 1"),
        ("a<=-1", "a <= - 1"),
        ("a/*/* x */-- */b", "a b"),
        ("'a'\n -- c\n 'b'", "'ab'"),
        ("E'\\x41\\u00e9\\'' 'b'", "E'Aé''' 'b'".replace("E'Aé'''", "'Aé'''")),
        ("'a\\b'", "E'a\\\\b'"),
        ("$a$ ' $$ $a$", "' '' $$ '"),
        ("a$b$c", "a$b$c"),
        ("größe", '"größe"'),
        ("a\u00a0b", '"a\u00a0b"'),
        ("x::int[1:2]", "x :: int [ 1 : 2 ]"),
        ("1.5e3 .5 1_000 0x1F", "1.5e3 .5 1_000 0x1F"),
    ],
)
def test_tokens_are_postgresqls(text: str, written: str) -> None:
    assert write(read_tokens(text)) == written


def test_a_name_is_folded_and_cut_as_postgresql_does() -> None:
    assert [token.value for token in read_tokens('Ab "Ab" ÄB ' + "x" * 70)] == ["ab", "Ab", "Äb", "x" * 63]
