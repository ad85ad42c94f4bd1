"""The statements that make one object of a schema like the canonical one. Pure: text in, text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erpkit.tenants.objects import SCHEMA, SchemaObject

__all__ = ["DESTRUCTIVE", "mend_object", "rank"]

DESTRUCTIVE = "-- destructive: "

_DROPS = (
    "view",
    "materialized view",
    "trigger",
    "constraint",
    "index",
    "grant",
    "column",
    "table",
    "function",
    "procedure",
)
_MAKES = (
    "default privilege", "table", "sequence", "column", "sequence owner", "function", "procedure", "index", "constraint", "view",
    "materialized view", "trigger", "grant",
)  # fmt: skip


def rank(kind: str, change: str) -> int:
    """Return where the DDL of a difference stands in a script: drops first, dependants before what they depend on."""
    if change == "extra":
        return _DROPS.index(kind) if kind in _DROPS else len(_DROPS)
    return 100 + (_MAKES.index(kind) if kind in _MAKES else len(_MAKES))


def mend_object(wanted: SchemaObject | None, found: SchemaObject | None, columns: Sequence[SchemaObject] = ()) -> str:
    """Return the DDL that turns `found` into `wanted`; None stands for nothing. `columns` are those of a wanted table.

    The schema is written as SCHEMA. Several statements stand on a line each; a type is changed without USING, so that
    PostgreSQL refuses where a value would not fit.
    """
    thing = wanted or found
    assert thing is not None
    if thing.kind == "table":
        return _table(wanted, found, columns)
    if thing.kind == "column":
        return _column(wanted, found)
    if thing.kind == "sequence owner":
        owner = f"{SCHEMA}.{wanted.definition}" if wanted else "NONE"
        return f"ALTER SEQUENCE {SCHEMA}.{thing.name} OWNED BY {owner};"
    if wanted and found and thing.kind == "sequence":
        return f"ALTER SEQUENCE {SCHEMA}.{thing.name} {wanted.definition};"
    if wanted and found and thing.kind == "function":
        return f"{wanted.definition.strip()};"
    return "\n".join([*([_drop(found)] if found else []), *([_create(wanted)] if wanted else [])])


def _table(wanted: SchemaObject | None, found: SchemaObject | None, columns: Sequence[SchemaObject]) -> str:
    if wanted and found:
        return (
            f"-- by hand: table {wanted.name} is {found.definition or 'plain'!r}, not {wanted.definition or 'plain'!r}"
        )
    if found:
        return f"{DESTRUCTIVE}DROP TABLE {SCHEMA}.{found.name};"
    assert wanted is not None
    lines = ", ".join(f"{column.name} {_column_spec(column)}" for column in columns)
    kind = "UNLOGGED TABLE" if wanted.definition.startswith("unlogged") else "TABLE"
    partitions = f" {wanted.definition}" if wanted.definition.startswith("partition by") else ""
    statement = f"CREATE {kind} {SCHEMA}.{wanted.name} ({lines}){partitions};"
    for column in columns:  # a serial's sequence is one of the schema's own, and must be there before its default
        statement = _create_sequence_first(column) + statement
    return statement


def _create_sequence_first(column: SchemaObject) -> str:
    start, mark, rest = column.definition.partition(f"nextval('{SCHEMA}.")
    return f"CREATE SEQUENCE IF NOT EXISTS {SCHEMA}.{rest.split(chr(39))[0]};\n" if mark and start else ""


def _column(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    thing = wanted or found
    assert thing is not None
    table = f"ALTER TABLE {SCHEMA}.{thing.table}"
    if wanted is None:
        return f"{DESTRUCTIVE}{table} DROP COLUMN {thing.name};"
    add = f"{table} ADD COLUMN {thing.name} {_column_spec(wanted)};"
    if found is None:
        return _create_sequence_first(wanted) + add
    (kind, null, default), (old_kind, old_null, old_default) = _parts(wanted), _parts(found)
    if default != old_default and ") " in (default + old_default) and "generated always as (" in default + old_default:
        return f"{DESTRUCTIVE}{table} DROP COLUMN {thing.name};\n{DESTRUCTIVE}{add}"
    alter = f"{table} ALTER COLUMN {thing.name}"
    changes = [
        f"{alter} TYPE {kind};" if kind != old_kind else "",
        *(_change_default(alter, default, old_default) if default != old_default else ()),
        f"{alter} {'SET' if null else 'DROP'} NOT NULL;" if null != old_null else "",
    ]
    return "\n".join(change for change in changes if change)


def _change_default(alter: str, default: str, old: str) -> list[str]:
    drop = f"{alter} DROP IDENTITY;" if old.startswith("generated") else f"{alter} DROP DEFAULT;" if old else ""
    if default.startswith("default "):
        return [drop if old.startswith("generated") else "", f"{alter} SET DEFAULT {default.removeprefix('default ')};"]
    return [drop, f"{alter} ADD {default};" if default else ""]


def _parts(column: SchemaObject) -> tuple[str, str, str]:
    kind, null, default = column.definition.split("\n", 2)
    return kind, null, default


def _column_spec(column: SchemaObject) -> str:
    return " ".join(part for part in _parts(column) if part)


def _create(thing: SchemaObject) -> str:
    body, name = thing.definition, f"{SCHEMA}.{thing.name}"
    makers: dict[str, Callable[[], str]] = {
        "constraint": lambda: f"ALTER TABLE {SCHEMA}.{thing.table} ADD CONSTRAINT {thing.name} {body};",
        "index": lambda: f"{body.removesuffix(chr(10) + 'invalid')};",
        "trigger": lambda: _create_trigger(thing),
        "sequence": lambda: f"CREATE SEQUENCE IF NOT EXISTS {name};\nALTER SEQUENCE {name} {body};",
        "view": lambda: f"CREATE VIEW {name} AS\n{body.rstrip().rstrip(';')};",
        "materialized view": lambda: f"CREATE MATERIALIZED VIEW {name} AS\n{body.rstrip().rstrip(';')};",
        "function": lambda: f"{body.strip()};",
        "procedure": lambda: f"{body.strip()};",
    }
    return makers[thing.kind]() if thing.kind in makers else f"-- by hand: create {thing.kind} {thing.name}"


def _create_trigger(thing: SchemaObject) -> str:
    create, _, state = thing.definition.partition("\n")
    alter = f"\nALTER TABLE {SCHEMA}.{thing.table} {state} TRIGGER {thing.name};" if state else ""
    return f"{create};{alter}"


def _drop(thing: SchemaObject) -> str:
    if thing.kind == "constraint":
        return f"ALTER TABLE {SCHEMA}.{thing.table} DROP CONSTRAINT {thing.name};"
    if thing.kind == "trigger":
        return f"DROP TRIGGER {thing.name} ON {SCHEMA}.{thing.table};"
    return f"DROP {thing.kind.upper()} {'IF EXISTS ' if thing.kind == 'sequence' else ''}{SCHEMA}.{thing.name};"
