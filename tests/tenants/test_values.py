"""Values of every built-in type go through one query over tenants and back, and are compared on the server."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pandas
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from erpkit.database import Database, Tenant
from erpkit.embedded import EmbeddedServer
from erpkit.errors import UsageError
from erpkit.tenants import AsText, across, find_tenants
from tests.conftest import _new_database

LIMITS = (10_000, None)  # the first asks for a small result, the second for a large one

# Of each type, values at its ends and odd ones; a type that is not here fails the test that reads pg_type.
SAMPLES: dict[str, Sequence[str]] = {
    "bool": ["t", "f"],
    "bytea": ["", r"\x00ff5c2722", r"\x", "text"],
    "char": ["", "a", ",", '"', r"\200", r"\377"],
    "name": ["", 'x"y', "ä" * 31],
    "text": ["", " ", "NULL", "{}", '"\\,', "ä😀", "\x01\x7f\u2028", "a\nb\tc", "x" * 5000, "infinity"],
    "varchar": ["", "NULL", "ä "],
    "bpchar": ["", "a  ", "ä"],
    "int2": ["-32768", "32767", "0"],
    "int4": ["-2147483648", "2147483647", "0"],
    "int8": ["-9223372036854775808", "9223372036854775807", "9007199254740993", "0"],
    "oid": ["0", "4294967295"],
    "tid": ["(0,0)", "(4294967295,65535)"],
    "xid": ["0", "4294967295"],
    "cid": ["0", "4294967295"],
    "xid8": ["0", "18446744073709551615"],
    "float4": ["NaN", "Infinity", "-Infinity", "-0", "0.1", "1e-45", "3.4028235e38", "16777217"],
    "float8": ["NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308", "9007199254740993"],
    "numeric": ["NaN", "Infinity", "-Infinity", "0", "0.00", "1.10", "1e131071", "-1e-16383", "12345678901234567890.123"],
    "money": ["-92233720368547758.08", "92233720368547758.07", "0"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "0044-03-15 BC", "0001-01-01", "9999-12-31", "10000-01-01", "5874897-12-31"],
    "time": ["00:00", "24:00:00", "23:59:59.999999"],
    "timetz": ["00:00+00", "24:00:00+00", "00:00:00+15:59:59", "23:59:59.999999-15:59:59", "12:00-03:30"],
    "timestamp": [
        "infinity", "-infinity", "4713-01-01 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01", "9999-12-31 23:59:59.999999",
        "10000-01-01", "294276-12-31 23:59:59.999999", "2026-01-01 00:00:00.000001",
    ],
    "timestamptz": [
        "infinity", "-infinity", "4713-01-01 00:00+00 BC", "0001-01-01 00:00+00", "0001-01-01 12:00-15:59", "0001-01-01 12:00+15:59",
        "9999-12-31 00:00+00", "9999-12-31 23:59:59.999999+00", "9999-12-31 23:00-02", "10000-01-01 01:00+02", "1800-01-01 00:00+00",
        "294276-12-31 23:59:59.999999+00", "2026-03-29 01:30+00",
    ],
    "interval": [
        "infinity", "-infinity", "1 mon", "-1 mon", "30 days", "1 year", "1 mon -1 day +02:03:04.5", "0", "25:00:00",
        "-00:00:00.000001",
        "-1 days +02:00", "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807", "999999999 days", "-999999999 days",
        "1000000000 days", "2562047788:00:54.775806", "-2562047788:00:54.775807",
    ],
    "json": [
        "null", '"null"', "true", '"infinity"', '{"a":1,"a":2}', "12345678901234567890.123", "1e400", "[0.1, -0.0, null, 1e-400]",
        "9" * 5000, '"\\ud83d\\ude00"', "{}", '{"a": {"b": null, "b": 1}}', "[" * 3000 + "]" * 3000, "0.30000000000000004", '""',
    ],
    "jsonb": [
        "null", '"null"', "false", '{"a": null}', "12345678901234567890.123", "1e400", "-1.10", "9" * 5000, "[[], {}, 1e-5]", "0.1",
        "[" * 3000 + "]" * 3000, "123456789012345678901234567890", '"ä😀"',
    ],
    "jsonpath": ["$", '$."a"[*] ? (@ > 1)'],
    "xml": ["<a>b</a>", "", "text"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "inet": ["1.2.3.4", "1.2.3.4/24", "0.0.0.0/0", "::1", "::1/64", "::ffff:1.2.3.4"],
    "cidr": ["1.2.3.0/24", "1.2.3.4/32", "::/0", "::1/128"],
    "macaddr": ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"],
    "macaddr8": ["00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff"],
    "aclitem": ["postgres=r*w/postgres"],
    "bit": ["", "0", "1010101010"],
    "varbit": ["", "1", "0001"],
    "point": ["(0,-0)", "(Infinity,NaN)"],
    "lseg": ["[(0,0),(1,1)]"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1))"],
    "box": ["(1,1),(0,0)"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "line": ["{1,2,3}"],
    "circle": ["<(0,0),1e300>"],
    "tsvector": ["", "'a':1A 'b c':2,3"],
    "tsquery": ["", "'a' & !'b'"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "txid_snapshot": ["1:1:", "10:20:10,14"],
    "pg_snapshot": ["1:1:", "10:20:10,14"],
    "refcursor": ["", "x"],
    "regproc": ["-", "now", "0"],
    "regprocedure": ["-", "now()"],
    "regoper": ["0", "pg_catalog.||/"],
    "regoperator": ["0", "+(integer,integer)"],
    "regclass": ["-", "pg_class", "4294967295"],
    "regcollation": ["-", '"C"'],
    "regtype": ["-", "integer", "timestamp with time zone"],
    "regrole": ["-", "postgres"],
    "regnamespace": ["-", "pg_catalog"],
    "regconfig": ["-", "english"],
    "regdictionary": ["-", "simple"],
    "int2vector": ["", "1 -2"],
    "oidvector": ["", "1 4294967295"],
    "int4range": ["empty", "(,)", "[-2147483648,2147483647)", "[1,)"],
    "int8range": ["empty", "(,)", "[-9223372036854775808,9223372036854775807)"],
    "numrange": ["empty", "(,)", "[1.10,NaN]", "(-Infinity,Infinity)", "(0.00,1e100]"],
    "daterange": ["empty", "(,)", "[-infinity,infinity]", "[2026-01-01,10000-01-01)", "(,infinity)"],
    "tsrange": ["empty", "(,)", "[-infinity,infinity]", '["2026-01-01 00:00","10000-01-01 00:00")', '["0044-03-15 BC",)'],
    "tstzrange": ["empty", "(,)", "[-infinity,infinity]", '["2026-01-01 00:00+00","10000-01-01 00:00+00")'],
    "int4multirange": ["{}", "{(,)}", "{[1,3),[5,)}"],
    "int8multirange": ["{}", "{[-9223372036854775808,1)}"],
    "nummultirange": ["{}", "{[1.10,2],(3,Infinity)}"],
    "datemultirange": ["{}", "{[2026-01-01,infinity)}", "{(,0044-03-15 BC),[2026-01-01,)}"],
    "tsmultirange": ["{}", '{["2026-01-01 00:00",infinity]}'],
    "tstzmultirange": ["{}", '{[-infinity,"2026-01-01 00:00+00")}'],
}  # fmt: skip

_date = st.builds(
    "{:04d}-{:02d}-{:02d}".format, st.one_of(st.integers(1, 9999), st.integers(1, 294275)), st.integers(1, 12), st.integers(1, 28)
)  # fmt: skip
_clock = st.builds(
    "{:02d}:{:02d}:{:02d}.{:06d}".format, st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999999)
)  # fmt: skip
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
_number = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False).map("{:f}".format),
)
_jsons = st.recursive(
    st.one_of(st.just("null"), st.booleans().map(json.dumps), _text.map(json.dumps), _number),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(_text.map(json.dumps), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=5,
)
_micros = st.integers(-(2**63) + 1, 2**63 - 2)
ANY: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from("tf"),
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": st.integers(-(2**31), 2**31 - 1).map(str),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "float8": st.floats().map(repr),
    "float4": st.floats(width=32).map(repr),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str).filter(lambda text: "E" not in text),
    "text": _text,
    "bytea": st.binary(max_size=9).map(lambda data: rf"\x{data.hex()}"),
    "date": st.one_of(_date, _date.filter(lambda text: len(text) == 10 and text < "4713").map("{} BC".format)),
    "timestamp": st.builds("{} {}".format, _date, _clock),
    "timestamptz": st.builds("{} {}+{:02d}:{:02d}".format, _date, _clock, st.integers(0, 14), st.integers(0, 59)),
    "time": _clock,
    "timetz": st.builds("{}{:+03d}:{:02d}:{:02d}".format, _clock, st.integers(-14, 14), st.integers(0, 59), st.integers(0, 59)),
    "interval": st.builds(
        "{} mons {} days {} microseconds".format, st.sampled_from([0, 0, 1, -13]), st.integers(-(2**31) + 1, 2**31 - 1), _micros
    ),
    "json": _jsons,
    "jsonb": _jsons,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A built-in type: its name, and whether it takes values at all."""

    name: str
    is_read: bool

    def literal(self, text: str | None) -> str:
        return f'{_quote(text)}::pg_catalog."{self.name}"'


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    yield from _new_database(server)


@pytest.fixture(scope="module")
def tenant(shared: Database) -> Tenant:
    """A tenant whose database writes values in the forms that lose the most, in a time zone with seconds in its past."""
    with shared.connection() as connection:
        connection.execute("CREATE SCHEMA tenant_acme")
        name = shared.conninfo.rpartition("/")[2].partition("?")[0]
        connection.execute(f'CREATE ROLE "{name}.read"; GRANT USAGE ON SCHEMA tenant_acme TO "{name}.read"'.encode())
        for setting in ("datestyle = 'German'", "intervalstyle = 'sql_standard'", "extra_float_digits = -15",
                        "bytea_output = 'escape'", "timezone = 'Europe/Amsterdam'"):  # fmt: skip
            connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    shared.close()
    return Tenant("acme", "tenant_acme", name)  # what becomes a regclass is held back where a tenant has no role


@pytest.fixture(scope="module")
def kinds(shared: Database) -> list[Kind]:
    """All types of pg_catalog but pseudo-types, rows of tables and arrays."""
    query = (
        "SELECT typname FROM pg_type t WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype NOT IN ('p', 'c') "
        "AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) ORDER BY 1"
    )
    with shared.connection() as connection:
        names = [name for (name,) in connection.execute(query)]
        return [Kind(name, _is_read(connection, name)) for name in names]


def test_every_built_in_type_has_samples(kinds: list[Kind]) -> None:
    assert [kind.name for kind in kinds if kind.is_read and kind.name not in SAMPLES] == []
    assert len(kinds) > 80


def test_the_ends_of_every_built_in_type_arrive_as_they_are(
    shared: Database, tenant: Tenant, kinds: list[Kind]
) -> None:
    for kind in kinds:
        texts: list[str | None] = [None, *(SAMPLES[kind.name] if kind.is_read else ())]
        _check(shared, tenant, {kind: texts})


def test_arrays_of_every_built_in_type_arrive_as_they_are(shared: Database, tenant: Tenant, kinds: list[Kind]) -> None:
    with shared.connection() as connection:
        with_arrays = {name for (name,) in connection.execute("SELECT typname FROM pg_type WHERE typarray <> 0")}
    for kind in (kind for kind in kinds if kind.name in with_arrays):
        texts: Sequence[str] = SAMPLES[kind.name] if kind.is_read else ()
        lists: list[Sequence[str | None]] = [[], [None], [*texts, None], *([text] for text in texts)]
        array = f'::pg_catalog."{kind.name}"[]'
        arrays = [f"ARRAY[{', '.join(map(kind.literal, some))}]{array}" for some in lists]
        one = kind.literal(texts[0] if texts else None)
        arrays += [f"array_fill({one}, ARRAY[2], ARRAY[0])", "NULL"]
        if "json" not in kind.name:  # there a list in a list is JSON's
            arrays.append(f"ARRAY[[{one}, NULL], [{one}, {one}]]")
        _check_expressions(shared, tenant, {f"{kind.name}[]": arrays})


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.fixed_dictionaries({name: st.lists(st.none() | some, min_size=3, max_size=3) for name, some in ANY.items()}))
def test_any_value_arrives_as_it_is(shared: Database, tenant: Tenant, values: dict[str, list[str | None]]) -> None:
    _check(shared, tenant, {Kind(name, True): texts for name, texts in values.items()})
    _check_expressions(
        shared,
        tenant,
        {f"{name}[]": [f"ARRAY[{', '.join(map(Kind(name, True).literal, texts))}]"] for name, texts in values.items()},
    )


@pytest.mark.parametrize("limit", LIMITS)
def test_what_python_would_change_says_what_it_is(shared: Database, tenant: Tenant, limit: int | None) -> None:
    query = (
        "SELECT 'infinity'::interval, '1 mon'::interval, "
        "'36:00'::interval, '24:00'::time, '0044-03-15 BC'::date, '[0:1]={1,2}'::int[], "
        "'null'::jsonb, NULL::jsonb, '\"null\"'::jsonb, '{\"a\":1,\"a\":2}'::json, '12345678901234567890.123'::jsonb, '1.5'::jsonb, "
        "ARRAY['infinity'::date, '2026-01-01'], daterange('2026-01-01', 'infinity'), row(1, 'x', NULL), row(NULL)"
    )
    frame = across(shared, query, tenants=[tenant], limit=limit, named=False).frame
    assert [frame.iloc[0, n] for n in range(len(frame.columns))] == [
        AsText("infinity"), AsText("1 mon"), timedelta(hours=36), AsText("24:00:00"), AsText("0044-03-15 BC"), AsText("[0:1]={1,2}"),
        AsText("null"), None, "null", AsText('{"a":1,"a":2}'), Decimal("12345678901234567890.123"), 1.5,
        [AsText("infinity"), date(2026, 1, 1)], Range(date(2026, 1, 1), AsText("infinity"), "[)"), ("1", "x", None),
        AsText("()"),
    ]  # fmt: skip
    assert [type(frame.iloc[0, n]) for n in (6, 8)] == [AsText, str]
    assert repr(frame.iloc[0, 6]) == "AsText('null')"


@pytest.mark.parametrize("limit", LIMITS)
def test_a_timestamp_that_pandas_has_not_costs_no_row_and_no_dtype_of_others(
    shared: Database, tenant: Tenant, limit: int | None
) -> None:
    query = (
        "SELECT * FROM (VALUES (1, timestamp 'infinity', now()), (2, '2026-01-01', '9999-12-31 00:00+00'), (3, NULL, NULL), "
        "(4, '10000-01-01', now())) v (a, t, u)"
    )
    frame = across(shared, query, tenants=[tenant], limit=limit, named=False).frame
    assert list(frame["a"]) == [1, 2, 3, 4]
    assert list(frame["t"]) == [
        AsText("infinity"),
        pandas.Timestamp("2026-01-01"),
        None,
        AsText("10000-01-01 00:00:00"),
    ]
    assert (str(frame["t"].dtype), str(frame["u"].dtype)) == ("object", "datetime64[us, UTC]")
    assert list(frame["t"].isna()) == [False, False, True, False]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_floats_nan_is_not_null(shared: Database, tenant: Tenant, limit: int | None) -> None:
    query = "SELECT * FROM (VALUES (1, 'NaN'::float8), (2, NULL), (3, 1.5)) v(a, f)"
    floats = across(shared, query, tenants=[tenant], limit=limit).frame["f"]
    assert (str(floats.dtype), list(floats.isna()), str(floats[0])) == ("Float64", [False, True, False], "nan")


def test_the_cases_have_each_row_and_value(shared: Database, tenant: Tenant) -> None:
    def read(query: str, limit: int | None) -> list[tuple[Any, ...]]:
        frame = across(shared, query, tenants=[tenant, tenant], limit=limit, named=False).frame
        return list(frame.astype(object).itertuples(index=False, name=None))

    for limit in LIMITS:
        assert read("SELECT 1 a, 2 a, 3 AS a_2", limit) == [(1, 2, 3)]
        assert read("SELECT 1 AS tenant", limit) == [(1,)]
        assert read("SELECT", limit) == [()]
        assert read("SELECT 'x' AS \" \"", limit) == [("x",)]


def test_columns_whose_types_differ_between_tenants_keep_their_values(shared: Database, tenant: Tenant) -> None:
    with shared.connection() as connection:
        connection.execute("CREATE SCHEMA tenant_blue")
        connection.execute(
            "CREATE TABLE tenant_acme.t AS SELECT 9007199254740993::int8 AS n, true AS b, now()::timestamp AS t"
        )
        connection.execute(
            "CREATE TABLE tenant_blue.t AS SELECT 0.5::float8 AS n, 3 AS b, now() AS t, 'x' AS more, NULL::int AS none"
        )
        connection.execute(f'GRANT SELECT ON tenant_acme.t TO "{tenant.reader}"'.encode())
    for limit in LIMITS:
        frame = across(shared, "SELECT * FROM t", tenants=[tenant, Tenant("blue", "tenant_blue")], limit=limit).frame
        assert frame["n"].tolist() == [9007199254740993, 0.5]
        assert [(type(value), value) for value in frame["b"]] == [(bool, True), (int, 3)]
        assert [value.tzinfo is None for value in frame["t"]] == [True, False]
        assert (frame["more"].isna().tolist(), str(frame["more"].dtype), str(frame["none"].dtype)) == (
            [True, False],
            "str",
            "Int64",
        )


def test_bytes_that_are_no_text_in_the_servers_encoding_are_shown(server: EmbeddedServer) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        connection.execute("CREATE DATABASE test_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    listed = (
        "SELECT nspname::text AS slug, nspname::text AS schema_name FROM pg_namespace WHERE nspname = 'tenant_acme'"
    )
    for name, query in (("ascii", r"SELECT convert_from('\x61e4', 'SQL_ASCII') AS t"), ("latin", "SELECT 'aä' AS t")):
        with Database(server.url(f"test_{name}"), name) as database:
            with database.connection() as connection:
                connection.execute("CREATE SCHEMA tenant_acme")
                tenants = find_tenants(connection, (), listed)
            assert [tenant.slug for tenant in tenants] == ["tenant_acme"]
            for limit in LIMITS:
                result = across(database, query, tenants=tenants, limit=limit)
                assert result.errors == {}
                assert (list(result.frame["t"]), result.errors) == ([r"a\xe4" if name == "ascii" else "aä"], {})
            if name == "latin":
                with pytest.raises(UsageError, match="the database cannot hold a character of the SQL: .* in encoding"):
                    across(database, "SELECT 1 AS 日", tenants=tenants)
            else:
                assert list(across(database, "SELECT '日' AS t", tenants=tenants).frame["t"]) == ["日"]


def _check(database: Database, tenant: Tenant, texts: Mapping[Kind, Sequence[str | None]]) -> None:
    _check_expressions(
        database, tenant, {kind.name: [kind.literal(text) for text in some] for kind, some in texts.items()}
    )


def _check_expressions(database: Database, tenant: Tenant, expressions: Mapping[str, Sequence[str]]) -> None:
    """Read a column of each type, and have the server compare it with what was written; both ways must give the same."""
    rows = [f"({', '.join(row)})" for row in zip(*expressions.values(), strict=True)]
    query = f"SELECT * FROM (VALUES {', '.join(rows)}) v"
    small, large = (across(database, query, tenants=[tenant], limit=limit, named=False) for limit in LIMITS)
    assert (small.errors, large.errors) == ({}, {})
    assert list(map(str, small.frame.dtypes)) == list(map(str, large.frame.dtypes))
    for (name, written), (_, few), (_, many) in zip(
        expressions.items(), small.frame.items(), large.frame.items(), strict=True
    ):
        values = _values(few)
        assert list(map(repr, values)) == list(map(repr, _values(many))), name
        _compare(database, name, written, values)


def _values(column: "pandas.Series[Any]") -> list[Any]:
    """Return the values, None for NULL; a Decimal's NaN counts as missing for pandas."""
    if column.dtype == object:
        return list(column)
    return [None if is_null else value for value, is_null in zip(column, column.isna(), strict=True)]


def _compare(database: Database, name: str, written: Sequence[str], values: Sequence[Any]) -> None:
    sql = [_quote(None if value is None else _write(value, name)) for value in values]
    kind = f'pg_catalog."{name.removesuffix("[]")}"' + "[]" * name.endswith("[]")
    both = ", ".join(f"({left}, {right}::{kind})" for left, right in zip(written, sql, strict=True))
    same = "num_nulls(w, v) = 2 OR num_nulls(w, v) = 0 AND concat(w) = concat(v)"
    if name.startswith("interval"):
        same += " OR w = v"
    if name.startswith("json") and "path" not in name:
        target = "jsonb[]" if name.endswith("[]") else "jsonb"
        same = f"num_nulls(w, v) = 2 OR CASE WHEN concat(w) = concat(v) THEN true ELSE concat(w)::{target} = concat(v)::{target} END"
    with database.connection() as connection:
        connection.execute("SET extra_float_digits = 1; SET intervalstyle = 'postgres'; SET datestyle = 'ISO'")
        wrong = connection.execute(
            f"SELECT concat(w), concat(v) FROM (VALUES {both}) x (w, v) WHERE NOT ({same})".encode()
        )
        assert wrong.fetchall() == [], name


def _write(value: Any, name: str) -> str:
    """Return a value as PostgreSQL reads it."""
    if isinstance(value, AsText):
        return str(value)
    if name in ("json", "jsonb"):
        return _json(value)
    if isinstance(value, list):
        is_nested = "json" not in name and any(isinstance(item, list) for item in value)
        element = name if is_nested else name.removesuffix("[]")
        delimiter = ";" if name.startswith("box") else ","
        return "{" + delimiter.join(_element(item, element) for item in value) + "}"
    match value:
        case float():
            return repr(float(value))
        case bytes():
            return rf"\x{value.hex()}"
        case datetime() | time() | date():
            return value.isoformat()
        case timedelta():
            return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
        case Multirange():
            return "{" + ",".join(_write(part, name) for part in value) + "}"
        case Range():
            return _range(value)
    return str(value)


def _element(item: Any, name: str) -> str:
    if item is None:
        return "NULL"
    text = _write(item, name)
    return (
        text
        if isinstance(item, list) and name.endswith("[]")
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def _range(value: "Range[Any]") -> str:
    if value.isempty:
        return "empty"
    low, high = ("" if bound is None else f'"{_write(bound, "")}"' for bound in (value.lower, value.upper))
    return f"{'[' if value.lower_inc else '('}{low},{high}{']' if value.upper_inc else ')'}"


def _json(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{json.dumps(key)}:{_json(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
        case Decimal():
            return str(value)
    return json.dumps(value)


def _quote(text: str | None) -> str:
    return "NULL" if text is None else "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _is_read(connection: psycopg.Connection[Any], name: str) -> bool:
    """Tell whether a type takes values: pg_node_tree and its like are only written by the server, xml may be left out of it."""
    try:
        connection.execute(f'SELECT {_quote(SAMPLES.get(name, ["0"])[0])}::pg_catalog."{name}"'.encode())
    except psycopg.errors.FeatureNotSupported:
        return False
    return True
