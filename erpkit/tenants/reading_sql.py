"""Check that a user's SQL only reads: before it runs, the server tells what each name in it does.

A read-only transaction under a tenant's role is not enough, as a function may leave both: one that runs SQL given as text, or
changes a setting. PostgreSQL marks functions that do more than read as VOLATILE, so a name with a VOLATILE variant is refused
wherever it may call a function: in a call, a field (`(x).name` calls a function of one argument), an operator or a cast. The names
come from the tokens, not from a parser's tree, which may leave some out. Everything that is not built into PostgreSQL is refused
unless the settings allow it, as a STABLE function may EXECUTE any text, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from erpkit.database import Connection, Tenant
from erpkit.errors import UsageError
from erpkit.tenants.schema_walls import find_names_beyond
from erpkit.tenants.sql_tokens import Kind, Token
from erpkit.tenants.statement import Statement, ends_value, read_statement

CATALOGS = ("pg_catalog", "information_schema")

# VOLATILE because they return another value each time, or read the sizes of files; none of them changes anything.
HARMLESS = frozenset({
    "random", "random_normal", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7", "array_sample",
    "array_shuffle", "pg_relation_size", "pg_table_size", "pg_total_relation_size", "pg_indexes_size", "pg_database_size",
    "pg_tablespace_size", "pg_blocking_pids", "pg_is_in_recovery",
})  # fmt: skip
_VOLATILE = "it is VOLATILE or not open to PUBLIC, so it may do more than read, or leave the tenant's role"
_SAMPLING = ("bernoulli", "system")  # TABLESAMPLE's methods, which are VOLATILE functions that no SQL can call

# The operators that key words stand for, looked up on the search_path like any other.
_BEHIND_WORDS = {
    "like": ("~~", "!~~"),
    "ilike": ("~~*", "!~~*"),
    "similar": ("~", "!~"),
    "between": ("<", ">", "<=", ">="),
    **dict.fromkeys(("in", "case", "nullif", "using", "natural", "distinct"), ("=", "<>")),
}

# One query for all names. Objects that CREATE made have oids from 16384 on (PostgreSQL's FirstNormalObjectId), also in pg_catalog.
# `near` are the schemas in which a name without a schema may be found besides pg_catalog. A cast that is not built in counts if
# typed text can reach it: from a string type, if it is implicit or its target is named; from another type, if that is named, too.
# A cast in C belongs to an extension and runs no text. A domain's CHECK can pass a text on, too.
_FACTS = """
WITH near AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname = ANY(%(near)s))
SELECT 'volatile', p.proname::text, NULL::text, NULL::text, false FROM pg_catalog.pg_proc p
WHERE p.proname = ANY(%(names)s) AND p.pronamespace = 'pg_catalog'::regnamespace
  AND (p.provolatile = 'v' OR NOT has_function_privilege('public', p.oid, 'EXECUTE'))
UNION ALL
SELECT 'outside', p.proname::text, n.nspname::text, p.proname::text, bool_or(p.pronargs - p.pronargdefaults <= 1 AND p.pronargs > 0)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = ANY(%(names)s) AND p.oid >= 16384
  AND (p.pronamespace IN (SELECT oid FROM near) OR n.nspname IN ('pg_catalog', 'information_schema'))
GROUP BY 2, 3
UNION ALL
SELECT DISTINCT 'operator', o.oprname::text, n.nspname::text, p.proname::text, false
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE o.oprname = ANY(%(symbols)s) AND (p.provolatile = 'v' OR p.oid >= 16384 AND NOT (
      -- an extension's comparisons of its own type, in C: each = would be refused where it is on the path; it reads no table
      o.oprname IN ('=', '<>', '<', '<=', '>', '>=') AND p.provolatile = 'i'
      AND p.prolang = (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'c')
      AND EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')))
  AND (o.oprnamespace IN (SELECT oid FROM near) OR o.oprnamespace = 'pg_catalog'::regnamespace)
UNION ALL
SELECT 'domain', t.typname::text, n.nspname::text, p.proname::text, false
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_constraint k ON k.contypid = t.oid
  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid AND d.refclassid = 'pg_proc'::regclass
  JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE t.typname = ANY(%(names)s) AND t.typtype = 'd' AND p.oid >= 16384
UNION ALL
SELECT 'cast', format('%%s AS %%s', s.typname, t.typname), n.nspname::text, p.proname::text, false
FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_catalog.pg_type s ON s.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
WHERE p.oid >= 16384
  AND (p.provolatile = 'v' OR p.prolang <> (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'c'))
  AND CASE WHEN s.typcategory = 'S' THEN c.castcontext = 'i' OR t.typname = ANY(%(names)s) OR (%(casts)s AND t.oid < 16384)
      ELSE s.typname = ANY(%(names)s) AND (c.castcontext = 'i' OR t.typname = ANY(%(names)s) OR t.oid < 16384) END
"""


@dataclass(frozen=True)
class Reach:
    """What a statement can use: functions by schema and name, fields, operators by schema and sign, and all its names."""

    calls: frozenset[tuple[str | None, str]]
    fields: frozenset[str]
    operators: frozenset[tuple[str | None, str]]
    names: frozenset[str]
    casts: bool


@dataclass(frozen=True)
class Fact:
    """What the server knows of a name: the kind of object, and the function behind it with its schema."""

    kind: str
    name: str
    schema: str | None
    function: str | None
    is_field: bool


def check_reading(
    connection: Connection,
    text: str,
    tenants: Sequence[Tenant],
    *,
    shared_schemas: Sequence[str] = (),
    allowed_functions: Sequence[str] = (),
) -> Statement:
    """Return the statement of `text`, checked for these tenants.

    `allowed_functions` are names, with or without a schema, or `schema.*`. If a tenant has no role, only this check keeps a
    statement in the tenant's schema and the `shared_schemas`. Raises UsageError, which names the culprit.
    """
    statement = read_statement(text)
    schemas = {tenant.schema for tenant in tenants}
    reach = find_reach(statement.tokens)
    facts = look_up(connection, reach, [*schemas, *shared_schemas])
    for problem in find_problems(reach, facts, frozenset(allowed_functions)):
        raise UsageError(problem)
    if any(tenant.reader is None for tenant in tenants):
        own = schemas if len(schemas) == 1 else set()
        for problem in find_names_beyond(connection, statement, {*own, *shared_schemas, *CATALOGS}):
            raise UsageError(problem)
    return statement


def find_reach(tokens: Sequence[Token]) -> Reach:
    """Return what a statement of these tokens can use, or more than that in doubt."""
    calls, fields, operators = set(), set(), set()
    for at, token in enumerate(tokens):
        if token.is_name:
            if _is_call(tokens, at):
                calls.add((_qualifier(tokens, at), token.value))
            elif at and tokens[at - 1].is_mark("."):
                fields.add(token.value)
        if token.is_word("operator") and _is(tokens, at + 1, "("):
            operators.add(_qualified_operator(tokens, at + 2))
        elif token.kind is Kind.OPERATOR and not _is_star(tokens, at) and token.value != "=>":
            operators.add((None, token.value))
        if token.kind is Kind.WORD:
            operators |= {(None, sign) for sign in _BEHIND_WORDS.get(token.value, ())}
    names = frozenset(token.value for token in tokens if token.is_name)
    casts = any(token.is_mark("::") or token.is_word("cast") for token in tokens)
    return Reach(frozenset(calls), frozenset(fields), frozenset(operators), names, casts)


def _is(tokens: Sequence[Token], at: int, *marks: str) -> bool:
    return 0 <= at < len(tokens) and tokens[at].is_mark(*marks)


def _is_word(tokens: Sequence[Token], at: int, *words: str) -> bool:
    return 0 <= at < len(tokens) and tokens[at].is_word(*words)


def _is_call(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether a name may be a function's: a bracket follows, and it is no alias, type or sampling method."""
    if not _is(tokens, at + 1, "("):
        return False
    if _is_word(tokens, at - 1, "as"):  # an alias with columns, or a type with its length
        return False
    if _is_word(tokens, at - 1, "tablesample") and tokens[at].value in _SAMPLING:
        return False
    return not _names_a_cte(tokens, at)


def _names_a_cte(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether `name (…)` is followed by `AS (SELECT`, which no call in FROM can be: SELECT names no column."""
    if not (_is_word(tokens, at - 1, "with", "recursive") or _is(tokens, at - 1, ",")):
        return False
    end = next((n for n in range(at + 2, len(tokens)) if not (tokens[n].is_name or tokens[n].is_mark(","))), at)
    if not (_is(tokens, end, ")") and _is_word(tokens, end + 1, "as")):
        return False
    start = end + 2
    while _is_word(tokens, start, "not", "materialized"):  # the second one could be an alias, too
        start += 1
    return _is(tokens, start, "(") and _is_word(tokens, start + 1, "select", "with", "table")


def _qualifier(tokens: Sequence[Token], at: int) -> str | None:
    return tokens[at - 2].value if at > 1 and _is(tokens, at - 1, ".") else None


def _is_star(tokens: Sequence[Token], at: int) -> bool:
    """Tell whether a sign is the * of `SELECT *`, `t.*` or count(*), or stands in OPERATOR(…)."""
    before = tokens[at - 1]
    return before.is_mark(".") or (tokens[at].value == "*" and not ends_value(before))


def _qualified_operator(tokens: Sequence[Token], at: int) -> tuple[str | None, str]:
    schema = None
    while at + 1 < len(tokens) and tokens[at].is_name and _is(tokens, at + 1, "."):
        schema, at = tokens[at].value, at + 2
    return schema, tokens[at].value


def look_up(connection: Connection, reach: Reach, near: Sequence[str]) -> list[Fact]:
    """Return what the server knows of the names, with the schemas `near` searched besides pg_catalog."""
    schemas = {*near, *(schema for schema, _ in reach.operators if schema is not None)}
    signs = {sign for _, sign in reach.operators}
    values = {"names": list(reach.names), "symbols": list(signs), "near": list(schemas), "casts": reach.casts}
    return [Fact(*row) for row in connection.execute(_FACTS, values)]


def find_problems(reach: Reach, facts: Sequence[Fact], allowed: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield a sentence for each name that is not known to only read."""
    volatile = {fact.name for fact in facts if fact.kind == "volatile"} - HARMLESS
    outside = [fact for fact in facts if fact.kind == "outside" and not _is_allowed(fact.schema, fact.name, allowed)]
    for schema, name in sorted(reach.calls, key=lambda call: (call[1], call[0] or "")):
        if schema in (None, "pg_catalog") and name in volatile:
            yield f"{name} cannot be used here: {_VOLATILE}"
        if schema is not None and schema not in CATALOGS and not _is_allowed(schema, name, allowed):
            yield _not_built_in(f"the function {schema}.{name}", name)
        yield from (
            _not_built_in(f"the function {fact.schema}.{name}", name)
            for fact in outside
            if fact.name == name and schema in (None, fact.schema)
        )
    for name in sorted(reach.fields):
        if name in volatile:
            yield f"{name} cannot be used here, and .{name} may call it: {_VOLATILE}; {_as_column(name)}"
        yield from (
            f"{_not_built_in(f'the function {fact.schema}.{name}, which .{name} may call,', name)}; {_as_column(name)}"
            for fact in outside
            if fact.name == name and fact.is_field
        )
    for fact in facts:
        if fact.kind in ("operator", "cast", "domain") and not _is_allowed(fact.schema, fact.function, allowed):
            yield _not_built_in(f"the {fact.kind} {fact.name} calls {fact.schema}.{fact.function}", str(fact.function))


def _is_allowed(schema: str | None, name: str | None, allowed: frozenset[str]) -> bool:
    return bool({name, f"{schema}.{name}", f"{schema}.*"} & allowed)


def _as_column(name: str) -> str:
    return f"if you mean a column, write {name} without its table"


def _not_built_in(what: str, name: str) -> str:
    return (
        f"{what} cannot be used here: it is not built into PostgreSQL and may run anything; if it only reads, add {name} to "
        "ERPKIT_ALLOWED_FUNCTIONS"
    )
