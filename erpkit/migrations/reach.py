"""Statements that reach beyond the tenant: what only the first tenant can do, and what changes others or the whole server.

A migration runs once for each tenant. What the database or the server has only once is there already when the second one comes,
and what names another schema is not the tenant's. PostgreSQL would say so at the second tenant, or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from erpkit.migrations.tokens import Statement

__all__ = ["Reach", "find_reach"]

# What a server or database has once under a name (PostgreSQL manual, "System Catalogs": what is in no schema).
_ONCE = (
    ("access", "method"), ("cast",), ("database",), ("event", "trigger"), ("extension",), ("foreign", "data", "wrapper"),
    ("group",), ("language",), ("publication",), ("role",), ("schema",), ("server",), ("subscription",), ("tablespace",),
    ("transform",), ("user",), ("user", "mapping"),
)  # fmt: skip
_SERVER = (("system",), ("database",), ("role",), ("user",), ("group",), ("tablespace",))
_MODIFIERS = (
    "or", "replace", "temp", "temporary", "unlogged", "global", "local", "unique", "recursive", "constraint", "trusted",
    "procedural", "default",
)  # fmt: skip
_BEFORE_NAME = ("if", "not", "exists", "concurrently", "only")
_ON = ("index", "trigger", "policy", "rule")
_WRITES = (("insert", "into"), ("merge", "into"), ("delete", "from"), ("update",), ("truncate",), ("copy",), ("lock",))
_OWN = ("pg_temp",)
_PATH = ("search_path", "role", "schema", "session_authorization")
_MORE_WORDS = (("text", "search"), ("materialized",), ("foreign",), ("operator", "class"), ("operator", "family"))


@dataclass(frozen=True)
class Reach:
    """How a statement reaches beyond the tenant: the rule that it breaks, why, and what to do."""

    rule: str
    message: str
    help: str


def find_reach(
    statement: Statement, shared: Collection[str] = (), extensions: Mapping[str, str] | None = None
) -> Reach | None:
    """Say how a statement reaches beyond the tenant, None where it does not.

    `shared` are the schemas that are declared as such, `extensions` those that are installed, with the schema of each. What is
    made IF NOT EXISTS in a shared schema can be done again and again. Pure.
    """
    words = statement.words
    if words[:2] == ("create", "extension"):
        return _extension(words, shared, extensions or {})
    return _leaves(words) or _once(words, shared) or _elsewhere(statement, shared)


def _leaves(words: Sequence[str]) -> Reach | None:
    """Find what changes the search_path or the role, as SET does, or takes back what was set."""
    first, rest = words[0], [word for word in words[1:4] if word not in ("session", "local")] or [""]
    is_session = "session" in words[1:3] and rest[0] == "authorization"
    found = (first in ("set", "reset") and (rest[0] in (*_PATH, "all") or is_session)) or words[:2] == (
        "discard",
        "all",
    )
    at = words.index("set_config") if "set_config" in words else -1
    if not found and not (at >= 0 and words[at + 1] == "(" and words[at + 2] in _PATH):
        return None
    return Reach(
        "leaves-schema", "What follows would not be in the tenant's schema, or not be the owner's.",
        "Leave search_path and role as erpkit sets them.",
    )  # fmt: skip


def _extension(words: Sequence[str], shared: Collection[str], installed: Mapping[str, str]) -> Reach | None:
    is_lenient = words[2:5] == ("if", "not", "exists")
    name = words[5 if is_lenient else 2] if len(words) > (5 if is_lenient else 2) else ""
    named = words[words.index("schema") + 1] if "schema" in words[:-1] else ""
    place = installed.get(name, "pg_catalog" if name == "plpgsql" else named)
    if is_lenient and place in (*shared, "pg_catalog"):
        return None
    return Reach(
        "only-once", f"A database has the extension {name} once: its types and functions would be in the first tenant's schema.",
        f"Make a schema for it, name that in ERPKIT_SHARED_SCHEMAS, and write CREATE EXTENSION IF NOT EXISTS {name} SCHEMA it.",
    )  # fmt: skip


def _once(words: Sequence[str], shared: Collection[str]) -> Reach | None:
    verb, kind, rest = _head(words)
    if verb == "alter" and any(kind[: len(one)] == one for one in _SERVER) and kind[:2] != ("user", "mapping"):
        what = " ".join(("alter", kind[0])).upper()
        return Reach(
            "whole-server", f"{what} holds for all tenants, and would be done for each.", "Do it once, by hand."
        )
    if (verb == "grant" and "on" not in words) or (verb == "revoke" and "on" not in words):
        return Reach("whole-server", "Roles belong to the whole server.", "Do it once, by hand.")
    found = max((one for one in _ONCE if kind[: len(one)] == one), key=len, default=None)
    if found is None or verb not in ("create", "alter", "drop"):
        return None
    if found == ("schema",) and verb == "create" and rest and rest[-1] in shared and "exists" in words:
        return None
    name = " ".join(found).upper()
    return Reach(
        "only-once", f"{verb.upper()} {name} can be done for one tenant alone: the others find it done.",
        "Do it once, by hand, or in a DO block that looks whether it is done.",
    )  # fmt: skip


def _head(words: Sequence[str]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the verb, the words that follow it without modifiers, and those after IF NOT EXISTS and the like."""
    position = 1
    while position < len(words) and words[position] in _MODIFIERS:
        position += 1
    kind = tuple(words[position : position + 3])
    rest = tuple(word for word in words[position + 1 : position + 5] if word not in _BEFORE_NAME)
    return words[0], kind, rest[:1]


def _elsewhere(statement: Statement, shared: Collection[str]) -> Reach | None:
    """Find the names of objects that the statement makes, changes or writes to, in a schema that is named."""
    words = statement.words
    is_repeatable = words[0] == "create" and ("exists" in words[:8] or "replace" in words[:3])
    for schema in _schemas(statement):
        if schema in _OWN or (schema in shared and is_repeatable):
            continue
        return Reach(
            "other-schema", f"It changes the schema {schema}, which is not the tenant's, and would do so for each tenant.",
            "Name what is the tenant's without a schema; change what is shared once, by hand.",
        )  # fmt: skip
    return None


def _schemas(statement: Statement) -> Iterator[str]:
    words = statement.words
    verb = words[0]
    if verb in ("create", "alter"):
        position = 1
        while position < len(words) and words[position] in _MODIFIERS:
            position += 1
        kind = words[position : position + 1]
        position += 1 + max(
            (len(more) for more in _MORE_WORDS if words[position : position + len(more)] == more), default=0
        )
        yield from _name_at(words, position)
        for on in (n for n, word in enumerate(words) if word == "on" and kind and kind[0] in _ON):
            yield from _name_at(words, on + 1)
            break
        if words[-3:-1] == ("set", "schema"):
            yield words[-1]
    if verb in ("drop", "comment", "grant", "revoke", "reindex", "refresh", "cluster", "vacuum", "analyze", "alter"):
        yield from _dotted(statement) if verb != "alter" else ()
        yield from (
            words[n + 2] for n in range(len(words) - 2) if words[n : n + 2] in (("in", "schema"), ("on", "schema"))
        )
    for start in _WRITES:
        for n in range(len(words) - len(start)):
            if words[n : n + len(start)] == start and (n == 0 or verb in ("with", "insert", "merge", "explain")):
                yield from _name_at(words, n + len(start) + (words[n + len(start)] == "table"))


def _dotted(statement: Statement) -> Iterator[str]:
    """Yield the schemas of the names outside brackets: what is in them are a function's types."""
    words, depth, is_inside = statement.words, 0, False
    for n, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        is_inside = n > 0 and words[n - 1] == "."
        if not depth and not is_inside and _is_dotted(words, n) and statement.tokens[n].kind in ("word", "name"):
            yield word


def _name_at(words: Sequence[str], position: int) -> Iterator[str]:
    while position < len(words) and words[position] in _BEFORE_NAME:
        position += 1
    if _is_dotted(words, position):
        yield words[position]


def _is_dotted(words: Sequence[str], position: int) -> bool:
    return position + 1 < len(words) and words[position + 1] == "."
