"""The DDL that makes one object of a schema like the canonical one. Pure: text in, text out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from erpkit.tenants.objects import SCHEMA, SchemaObject

DESTRUCTIVE = "-- destructive: "
_NEEDS_EMPTY = "-- fails where rows exist: "
_NEEDS_FITTING = "-- fails where a value does not fit: "
MARKS = (
    DESTRUCTIVE,
    _NEEDS_EMPTY,
    _NEEDS_FITTING,
)  # a statement behind one of these is a comment, on which a person decides

_OF_RISK = {"none": "", "fails": _NEEDS_FITTING, "loses": DESTRUCTIVE}

_DROPS = (
    "rule", "policy", "row level security", "view", "materialized view", "trigger", "constraint", "index", "statistics", "grant",
    "partition", "inheritance", "column", "table", "foreign table", "function", "procedure", "domain", "range", "type", "enum",
)  # fmt: skip
_MAKES = (
    "default privilege", "enum", "domain", "type", "range", "table", "foreign table", "sequence", "column", "sequence owner",
    "function", "procedure", "index", "constraint", "inheritance", "partition", "statistics", "view", "materialized view", "trigger",
    "rule", "row level security", "policy", "grant",
)  # fmt: skip


def rank(kind: str, change: str) -> int:
    """Return the position of a difference's DDL in a script: drops come first, and dependants before what they depend on."""
    if change == "extra":
        return _DROPS.index(kind) if kind in _DROPS else len(_DROPS)
    return 100 + (_MAKES.index(kind) if kind in _MAKES else len(_MAKES))


def mend_object(wanted: SchemaObject | None, found: SchemaObject | None, columns: Sequence[SchemaObject] = ()) -> str:
    """Return the DDL that turns `found` into `wanted`; None stands for nothing. `columns` are those of a wanted table.

    The schema is written as SCHEMA. Each statement has its own line; one that may fail or lose values begins with one of MARKS. A
    type is changed without USING, so that PostgreSQL refuses if a value does not fit.
    """
    thing = wanted or found
    assert thing is not None
    if thing.kind == "table":
        return _table(wanted, found, columns)
    if thing.kind == "column":
        return _column(wanted, found)
    if thing.kind in _MENDERS:
        return _MENDERS[thing.kind](wanted, found)
    if thing.kind.startswith("owner of "):
        return _owner(wanted, found)
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
        return _by_hand(wanted, found)
    if found:
        return f"{DESTRUCTIVE}DROP TABLE {SCHEMA}.{found.name};"
    assert wanted is not None
    lines = ", ".join(f"{column.name} {_column_spec(column)}" for column in columns)
    kind = "UNLOGGED TABLE" if wanted.definition.startswith("unlogged") else "TABLE"
    partitions = f" {wanted.definition}" if wanted.definition.startswith("partition by") else ""
    statement = f"CREATE {kind} {SCHEMA}.{wanted.name} ({lines}){partitions};"
    for column in columns:  # the sequence of a serial column must exist before its default
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
        needs_value = _parts(wanted)[1:] == ("not null", "")
        return _NEEDS_EMPTY + add if needs_value else _create_sequence_first(wanted) + add
    (kind, null, default), (old_kind, old_null, old_default) = _parts(wanted), _parts(found)
    if default != old_default and ") " in (default + old_default) and "generated always as (" in default + old_default:
        return f"{DESTRUCTIVE}{table} DROP COLUMN {thing.name};\n{DESTRUCTIVE}{add}"
    alter = f"{table} ALTER COLUMN {thing.name}"
    changes = [
        f"{_OF_RISK[cast_risk(old_kind, kind)]}{alter} TYPE {kind};" if kind != old_kind else "",
        *(_change_default(alter, default, old_default) if default != old_default else ()),
        f"{alter} {'SET' if null else 'DROP'} NOT NULL;" if null != old_null else "",
    ]
    return "\n".join(change for change in changes if change)


def _change_default(alter: str, default: str, old: str) -> list[str]:
    drop = f"{alter} DROP IDENTITY;" if old.startswith("generated") else f"{alter} DROP DEFAULT;" if old else ""
    if default.startswith("default "):
        return [drop if old.startswith("generated") else "", f"{alter} SET DEFAULT {default.removeprefix('default ')};"]
    return [drop, f"{alter} ADD {default};" if default else ""]


def _owner(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    thing = wanted or found
    assert thing is not None
    kind = thing.kind.removeprefix("owner of ").upper()
    owner = wanted.definition if wanted else "the owner of the schema"
    by_hand = "-- by hand: " if owner.startswith("the ") else ""
    return f"{by_hand}ALTER {kind} {SCHEMA}.{thing.name} OWNER TO {owner};"


def _row_security(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    thing = wanted or found
    assert thing is not None
    state = wanted.definition if wanted else "disabled"
    enable, force = "ENABLE" if "enabled" in state else "DISABLE", "FORCE" if "forced" in state else "NO FORCE"
    return f"ALTER TABLE {SCHEMA}.{thing.name} {enable} ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY;"


def _partition(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    """Detach a table from its parent and attach it to another; a definition is the parent, then the bounds."""
    lines = []
    if found:
        lines.append(f"ALTER TABLE {_parent(found)[0]} DETACH PARTITION {SCHEMA}.{found.name};")
    if wanted:
        parent, bounds = _parent(wanted)
        lines.append(f"ALTER TABLE {parent} ATTACH PARTITION {SCHEMA}.{wanted.name} {bounds};")
    return "\n".join(lines)


def _parent(partition: SchemaObject) -> tuple[str, str]:
    definition = partition.definition
    at = definition.index(" DEFAULT") if definition.endswith(" DEFAULT") else definition.index(" FOR VALUES ")
    return definition[:at], definition[at + 1 :]


def _inheritance(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    return "\n".join(
        f"ALTER TABLE {SCHEMA}.{one.name} {verb} {one.definition};"
        for one, verb in ((found, "NO INHERIT"), (wanted, "INHERIT"))
        if one
    )


def _enum(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    """Add labels in place; an extra label can only be removed by hand."""
    if wanted is None or found is None:
        return _create(wanted) if wanted else _drop(found) if found else ""
    labels, old = _labels(wanted), _labels(found)
    if [label for label in labels if label in old] != old:
        return _by_hand(wanted, found)
    name = f"{SCHEMA}.{wanted.name}"
    return "\n".join(
        f"ALTER TYPE {name} ADD VALUE {label}{f' AFTER {labels[place - 1]}' if place else f' BEFORE {old[0]}' if old else ''};"
        for place, label in enumerate(labels)
        if label not in old
    )


def _labels(enum: SchemaObject) -> list[str]:
    return re.findall(r"E?'(?:[^']|'')*'", enum.definition)


def _type(wanted: SchemaObject | None, found: SchemaObject | None) -> str:
    if wanted and found:
        return _by_hand(wanted, found)
    return _create(wanted) if wanted else _drop(found) if found else ""


def _by_hand(wanted: SchemaObject, found: SchemaObject) -> str:
    is_, should = (" ".join(one.definition.split()) or "plain" for one in (found, wanted))
    return f"-- by hand: {wanted.kind} {wanted.name} is [{is_}], not [{should}]"


_MENDERS: dict[str, Callable[[SchemaObject | None, SchemaObject | None], str]] = {
    "row level security": _row_security,
    "partition": _partition,
    "inheritance": _inheritance,
    "enum": _enum,
    "domain": _type,
    "range": _type,
    "type": _type,
    "foreign table": _type,
}


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
        "policy": lambda: f"CREATE POLICY {thing.name} ON {SCHEMA}.{thing.table} {body};",
        "rule": lambda: _create_rule(thing),
        "statistics": lambda: f"{body};",
        "enum": lambda: f"CREATE TYPE {name} AS ENUM ({body});",
        "domain": lambda: f"CREATE DOMAIN {name} AS {body};",
        "type": lambda: f"CREATE TYPE {name} AS ({body});",
        "range": lambda: f"CREATE TYPE {name} AS RANGE ({body});",
        "view": lambda: _create_view("VIEW", name, body),
        "materialized view": lambda: _create_view("MATERIALIZED VIEW", name, body),
        "function": lambda: f"{body.strip()};",
        "procedure": lambda: f"{body.strip()};",
    }
    return makers[thing.kind]() if thing.kind in makers else f"-- by hand: create {thing.kind} {thing.name}"


def _create_view(kind: str, name: str, body: str) -> str:
    options, query = body.split("\n", 1) if body.startswith("WITH (") and "=" in body.split("\n")[0] else ("", body)
    return f"CREATE {kind} {name}{f' {options}' if options else ''} AS\n{query.rstrip().rstrip(';')};"


def _create_rule(thing: SchemaObject) -> str:
    states = [line for line in thing.definition.split("\n") if re.fullmatch("DISABLE|ENABLE (ALWAYS|REPLICA)", line)]
    create = thing.definition.removesuffix(f"\n{states[-1]}") if states else thing.definition
    return create + (f"\nALTER TABLE {SCHEMA}.{thing.table} {states[-1]} RULE {thing.name};" if states else "")


def _create_trigger(thing: SchemaObject) -> str:
    create, _, state = thing.definition.partition("\n")
    alter = f"\nALTER TABLE {SCHEMA}.{thing.table} {state} TRIGGER {thing.name};" if state else ""
    return f"{create};{alter}"


def _drop(thing: SchemaObject) -> str:
    if thing.kind == "constraint":
        return f"ALTER TABLE {SCHEMA}.{thing.table} DROP CONSTRAINT {thing.name};"
    if thing.kind == "trigger":
        return f"DROP TRIGGER {thing.name} ON {SCHEMA}.{thing.table};"
    if thing.kind in ("policy", "rule"):
        return f"DROP {thing.kind.upper()} {thing.name} ON {SCHEMA}.{thing.table};"
    if thing.kind == "foreign table":
        return f"DROP FOREIGN TABLE {SCHEMA}.{thing.name};"
    kind = "TYPE" if thing.kind in ("enum", "range") else thing.kind.upper()
    return f"DROP {kind} {'IF EXISTS ' if thing.kind == 'sequence' else ''}{SCHEMA}.{thing.name};"


Risk = Literal["none", "fails", "loses"]

_WHOLE = ("smallint", "integer", "bigint")
_INEXACT = ("real", "double precision")
_TEXTS = ("character varying", "text")


def cast_risk(old: str, new: str) -> Risk:
    """Return what `ALTER COLUMN … TYPE` does with values that do not fit the new type; both types as PostgreSQL writes them.

    `loses`: values are silently rounded or cut off. `fails`: PostgreSQL refuses; this includes missing casts and casts that are
    not known here. `none`: every value fits.
    """
    (kind, sizes), (new_kind, new_sizes) = _parse(old), _parse(new)
    if kind == new_kind == "numeric":
        return _numeric_risk(sizes, new_sizes)
    if kind == new_kind and kind.startswith(("timestamp", "time ", "interval")):
        return "loses" if new_sizes and new_sizes < (sizes or (6,)) else "none"
    if kind in _TEXTS and new_kind in _TEXTS:
        return "none" if not new_sizes or (sizes and sizes <= new_sizes) else "fails"
    if kind in _WHOLE and new_kind in _WHOLE:
        return "none" if _WHOLE.index(kind) <= _WHOLE.index(new_kind) else "fails"
    if new_kind == "numeric" and kind in _WHOLE:
        return "none" if not new_sizes else "fails"
    if (kind, new_kind) == _INEXACT:
        return "none"
    return "loses" if _loses(kind, new_kind) else "fails"


def _numeric_risk(sizes: tuple[int, ...], new: tuple[int, ...]) -> Risk:
    if not new:
        return "none"
    if not sizes or new[1] < sizes[1]:
        return "loses"
    return "fails" if new[0] - new[1] < sizes[0] - sizes[1] else "none"


def _loses(kind: str, new: str) -> bool:
    numbers = (*_WHOLE, "numeric", *_INEXACT)
    return (
        (kind in ("numeric", *_INEXACT) and new in numbers)
        or (kind in ("integer", "bigint") and new in _INEXACT)
        or (kind.startswith("timestamp") and new.startswith(("date", "time ")))
        or (new.startswith("character") and not new.startswith("character varying"))
    )


def _parse(text: str) -> tuple[str, tuple[int, ...]]:
    """Split `numeric(12,2)` into its name and its numbers, `timestamp(3) with time zone` likewise."""
    match = re.fullmatch(r"([^(]+?)(?:\((\d+(?:,-?\d+)?)\))?( with(?:out)? time zone)?", text)
    if match is None:
        return text, ()
    sizes = tuple(int(size) for size in (match[2] or "").split(",") if size)
    return match[1] + (match[3] or ""), sizes
