"""From sqlc's description to Python source, and from its placeholders to psycopg's: pure."""

import ast
from dataclasses import replace
from typing import Any

import pytest

from erpkit.errors import QueryError
from erpkit.queries.arrays import enum_list
from erpkit.queries.catalog import Query, Request, parse_request, tell_apart
from erpkit.queries.render import render
from erpkit.queries.types import (
    Column,
    Enum,
    Name,
    Table,
    enum_names,
    fields,
    python_type,
    row_classes,
    to_numbered,
    to_psycopg,
    wrap,
)

_QUERY = Query("GetIt", ":one", "SELECT 1", (), (), ())


def _request(command: str = ":one", **changes: Any) -> Request:
    return Request((replace(_QUERY, command=command, **changes),), {}, {})


def _parameters(*columns: tuple[str, str, bool]) -> tuple[tuple[int, Column], ...]:
    return tuple((number, Column(*column)) for number, column in enumerate(columns, 1))


@pytest.mark.parametrize(
    ("column", "annotation"),
    [
        (Column("a", "bigserial", True), "int"),
        (Column("a", "int4", False), "int | None"),
        (Column("a", "numeric", True), "Decimal"),
        (Column("a", "uuid", True, 1), "list[UUID]"),
        (Column("a", "text", False, 2), "list[list[str]] | None"),
        (Column("a", "timestamptz", True), "datetime"),
        (Column("a", "jsonb", False), "Any"),
        (Column("a", "int4range", True), "Any"),
        (
            Column("a", "order_state", False, enum=Enum(Name("", "order_state"), "OrderState", ("new",))),
            "OrderState | None",
        ),
        (Column("a", "", True, embeds=Table(Name("", "sales_orders"), "SalesOrdersRow", ())), "SalesOrdersRow"),
        (Column("a", "", False, embeds=Table(Name("", "odd table"), "OddTableRow", ())), "OddTableRow | None"),
    ],
)
def test_a_column_has_the_type_that_the_driver_reads(column: Column, annotation: str) -> None:
    assert python_type(column) == annotation


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a = $1 AND b LIKE '%$1' -- 5% $1", "a = %(x)s AND b LIKE '%%$1' -- 5%% $1"),
        ("a % $2 = E'\\'$1' OR $$ $1 $$ = $1", "a %% %(y)s = E'\\'$1' OR $$ $1 $$ = %(x)s"),
        ("a IN ($1) AND b not in ( $2 )", "a = ANY (%(x)s) AND b <> ALL (%(y)s)"),
        ('"a$1" = $1 /* $1 */', '"a$1" = %(x)s /* $1 */'),
        ("$tag$ $1 ' $tag$ || $1", "$tag$ $1 ' $tag$ || %(x)s"),
    ],
)
def test_placeholders_get_names_and_a_literal_percent_survives(text: str, wanted: str) -> None:
    assert to_psycopg(text, {1: "x", 2: "y"}, {1, 2} if "IN" in text else ()) == wanted


def test_named_placeholders_go_back_to_numbers() -> None:
    assert to_numbered("a = %(x)s AND b LIKE '5%%' AND c = %(y)s OR %(x)s") == "a = $1 AND b LIKE '5%' AND c = $2 OR $1"


def test_long_lines_are_broken_outside_of_strings_and_comments() -> None:
    long = f"SELECT '{'word ' * 40}', {', '.join(f'column_{n}' for n in range(20))} FROM a -- {'note ' * 40}"
    wrapped = wrap(long)
    assert " ".join(wrapped.split()) == " ".join(long.split())
    assert f"'{'word ' * 40}'" in wrapped
    assert max(len(line) for line in wrapped.splitlines() if "word" not in line and "note" not in line) <= 100


def test_rendering_is_deterministic_and_is_python() -> None:
    columns = (Column("id", "int8", True), Column("class", "text", False), Column("id", "uuid", True))
    request = _request(":many", columns=columns, comments=('Says "yes" \\ no.', 'The """end"',))  # fmt: skip
    source = render("shop", request)
    assert source == render("shop", request)
    tree = ast.parse(source)
    function = tree.body[-1]
    assert isinstance(function, ast.FunctionDef)
    assert ast.get_docstring(function) == 'Says "yes" \\ no.\nThe """end"'
    assert "    id: int\n    class_: str | None\n    id_2: UUID\n" in source


@pytest.mark.parametrize(
    ("command", "returns"), [(":exec", "None"), (":execrows", "int"), (":execresult", "Cursor[Any]")]
)
def test_an_annotation_says_what_a_function_returns(command: str, returns: str) -> None:
    assert f"def get_it(connection: Connection[Any]) -> {returns}:" in render("shop", _request(command))


def test_names_that_clash_with_python_or_with_each_other_get_out_of_the_way() -> None:
    parameters = _parameters(("from", "int4", True), ("row", "int4", True), ("a", "text", True), ("a", "text", True))
    source = render("shop", _request(":exec", text="SELECT $1, $2, $3, $4", parameters=parameters))
    assert "from_: int, row_: int, a: str, a_2: str" in source
    assert "SELECT %(from_)s, %(row_)s, %(a)s, %(a_2)s" in source


def test_json_is_wrapped_on_its_way_in() -> None:
    parameters = _parameters(("a", "jsonb", False), ("b", "json", True))
    source = render("shop", _request(":exec", text="SELECT $1, $2", parameters=parameters))
    assert '{"a": None if a is None else Jsonb(a), "b": Json(b)}' in source


def test_an_annotation_that_is_not_known_is_named() -> None:
    with pytest.raises(
        QueryError, match="module shop: shop.sql: query GetIt is :execlastid, an unknown annotation: use :one, :many"
    ):
        render("shop", _request(":execlastid", file="shop.sql"))


def test_an_array_of_an_enum_is_read_from_text() -> None:
    assert enum_list('{happy,"very sad","a,\\"b\\""}') == ["happy", "very sad", 'a,"b"']
    assert enum_list('{a,NULL,"NULL"}') == ["a", None, "NULL"]
    assert enum_list("{}") == []
    assert enum_list(None) is None


def test_a_description_without_queries_is_empty() -> None:
    assert parse_request({"catalog": {"schemas": []}, "queries": None}) == Request((), {}, {})
    ast.parse(render("shop", Request((), {}, {})))


def test_a_schema_stands_in_a_class_name_only_where_two_tables_want_it() -> None:
    names = [Name("b", "users"), Name("", "users"), Name("a", "users"), Name("a", "lone"), Name("", "a_users")]
    given = row_classes(names)
    assert [given[name] for name in names] == ["BUsersRow", "UsersRow", "AUsersRow2", "LoneRow", "AUsersRow"]
    assert row_classes(reversed(names)) == given


def test_an_enum_hides_no_import_keyword_or_class() -> None:
    names = [Name("", "literal"), Name("", "none"), Name("", "***"), Name("", "users_row"), Name("x", "literal")]
    given = enum_names(names, {"UsersRow"})
    assert [given[name] for name in names] == ["LiteralEnum", "NoneEnum", "Enum", "UsersRow2", "XLiteralEnum"]


def test_a_field_is_never_private_to_its_class() -> None:
    assert fields(["__a", "_a", "1st", "class", "date", "", "?column?"]) == [
        "_a", "_a_2", "_1st", "class_", "date_", "column_6", "_column_"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM public.users",
        'SELECT * FROM "public" . "users", PUBLIC.Users',
        "SELECT public.users.id FROM public.users -- public.users",
    ],
)
def test_public_is_told_apart_only_where_a_table_of_that_name_is_the_tenants_too(text: str) -> None:
    apart = tell_apart([text], {"users"})
    shown = apart.hide(text)
    assert apart.alias in shown
    assert len(shown) == len(text)
    assert apart.restore(shown).lower() == text.lower()
    assert tell_apart([text], {"orders"}).hide(text) == text
    assert tell_apart([text.split("--")[-1]], set()).hide(text) == text


@pytest.mark.parametrize(
    "text",
    ["-- public.users", "'public.users'", '"a public.users"', "$$ public.users $$", "/* public.users */", "x.public.users",
     "republic.users", "E'\\'public.users'"],
)  # fmt: skip
def test_a_mention_that_is_no_name_tells_nothing_apart(text: str) -> None:
    assert tell_apart([text], {"users"}).names == frozenset()
