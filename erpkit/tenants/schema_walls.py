"""Keep a statement in its tenant's schema if no role does: in an ERP whose tenants ERPKIT_TENANTS_QUERY lists.

The login of such an ERP may read all tenants. A statement may name the tenant's schema, the shared schemas of the settings, and the
catalogs, except relations that show values and statements of all tenants. A string can be a name, too, if it becomes a regclass or
the like: by a cast, or as an argument of a function that takes one. Such a string must be a literal, so that it can be checked, and
an oid must be a column of the catalogs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from erpkit.database import Connection
from erpkit.tenants.sql_tokens import Token
from erpkit.tenants.statement import Statement

# Types whose values are names; those of the text search (regconfig, regdictionary) lead to no table.
_REG = re.compile(r"_?reg(class|proc|procedure|oper|operator|type|namespace|role|collation)")
# Functions that take a name as text, besides those that the server finds: functions with an argument of type regclass or the like,
# or of type cstring, as the types' input functions have.
_TAKES_NAMES = re.compile(
    r"to_reg\w+|has_\w+_privilege|pg_get_(viewdef|serial_sequence|object_address)|row_security_active|pg_input_\w+"
)
# Functions that read any table or schema by its name, or show the statements of others.
_READS_BEYOND = re.compile(r"\w+_to_xml(schema|_and_xmlschema)?|pg_stat_get_(activity|backend_activity\w*|wal_senders)")
# Relations that show values, statements or options of all, besides those of the catalogs that PUBLIC may not read.
_SHOWS_ALL = {
    "pg_catalog": re.compile(r"pg_stats\w*|pg_statistic\w*|pg_stat_(activity|replication|statements\w*)|pg_user_mappings?"
                             r"|pg_prepared_\w+|pg_cursors|pg_sequences|pg_largeobject\w*"),
    "information_schema": re.compile(r"_pg_user_mappings|user_mapping\w*"),
}  # fmt: skip
_NAMES_SCHEMAS = re.compile(r"(to_)?regnamespace|has_schema_privilege")
_PREFIX = re.compile(r'("(?:[^"]|"")+"|[\w$]+)\s*\.')
_ITSELF = ("current_user", "session_user", "current_role", "true", "false", "null")
_HERE = ("current_schema", "current_database")

_FACTS = """
SELECT 'schema', nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY(%(schemas)s)
UNION ALL
SELECT 'closed', c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = ANY(%(names)s) AND n.nspname IN ('pg_catalog', 'information_schema')
  AND NOT has_table_privilege('public', c.oid, 'SELECT')
UNION ALL
SELECT 'takes names', p.proname::text FROM pg_catalog.pg_proc p
WHERE p.proname = ANY(%(names)s) AND EXISTS (
  SELECT FROM unnest(p.proargtypes) a(type) JOIN pg_catalog.pg_type t ON t.oid = a.type
  WHERE t.typname ~ '^_?reg(?!config|dictionary)' OR t.typname = 'cstring')
UNION ALL
SELECT 'oid', a.attname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.attname = ANY(%(names)s) AND c.relnamespace = 'pg_catalog'::regnamespace
GROUP BY a.attname HAVING bool_and(a.atttypid = 'oid'::regtype)
"""


def find_names_beyond(connection: Connection, statement: Statement, allowed: set[str]) -> Iterator[str]:
    """Yield a sentence for each name with which a statement would leave the schemas `allowed`."""
    tokens = statement.tokens
    names = {token.value for token in tokens if token.is_name}
    prefixes = {token.value for at, token in enumerate(tokens) if token.is_name and _is(tokens, at + 1, ".")}
    written = {
        name for token in tokens if token.is_string for name in [*_prefixes(token.value), _fold(token.value.strip())]
    }
    values = {"schemas": list(prefixes | written), "names": list(names)}
    facts = connection.execute(_FACTS, values).fetchall()
    known = {kind: {name for of, name in facts if of == kind} for kind in ("schema", "closed", "takes names", "oid")}
    walls = _Walls(
        tokens, frozenset(allowed), frozenset(known["schema"] - allowed), frozenset(known["closed"]),
        frozenset(known["takes names"]), frozenset(known["oid"] - statement.defined),
    )  # fmt: skip
    yield from walls.problems()


def _is(tokens: Sequence[Token], at: int, *marks: str) -> bool:
    return 0 <= at < len(tokens) and tokens[at].is_mark(*marks)


def _prefixes(text: str) -> list[str]:
    """Return the names before a dot in a string, as a cast to regclass would read them."""
    return [_fold(name) for name in _PREFIX.findall(text)]


def _fold(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


@dataclass(frozen=True)
class _Walls:
    """A statement, and what the server knows of its names."""

    tokens: Sequence[Token]
    allowed: frozenset[str]
    others: frozenset[str]  # schemas that exist and may not be named
    closed: frozenset[str]  # relations of the catalogs that PUBLIC may not read
    takers: frozenset[str]  # functions with an argument of type regclass, the like, or cstring
    oids: frozenset[str]  # columns that are an oid in all catalogs, and that the statement does not define itself

    def problems(self) -> Iterator[str]:
        """Yield a sentence for each name that leads out of the allowed schemas."""
        for at, token in enumerate(self.tokens):
            if not token.is_name:
                continue
            yield from self._schema(at)
            yield from self._relation(at)
            if _READS_BEYOND.fullmatch(token.value) and (self._is(at + 1, "(") or self._is(at - 1, ".")):
                yield f"{token.value} cannot be used here: it reads any table in any schema"
            if _REG.fullmatch(token.value):
                yield from self._cast(at)
            if self._takes_names(token):
                yield from self._arguments(at)
        yield from self._strings()

    def _is(self, at: int, *marks: str) -> bool:
        return _is(self.tokens, at, *marks)

    def _takes_names(self, token: Token) -> bool:
        return token.is_name and (token.value in self.takers or _TAKES_NAMES.fullmatch(token.value) is not None)

    def _schema(self, at: int) -> Iterator[str]:
        name = self.tokens[at].value
        if name in self.others and self._is(at + 1, "."):
            yield (
                f"{name}.{self.tokens[at + 2].value}: another schema than the tenant's cannot be used here; name it in "
                f"ERPKIT_SHARED_SCHEMAS if all tenants share it, or give an alias {name} another name"
            )

    def _relation(self, at: int) -> Iterator[str]:
        """Refuse a relation of the catalogs that shows all tenants; a name after AS or after a table is a column."""
        name, schema = self.tokens[at].value, "pg_catalog"
        if self._is(at - 1, "."):
            schema = self.tokens[at - 2].value
        elif at and self.tokens[at - 1].is_word("as") and not self._is(at + 1, "."):
            return
        shows = _SHOWS_ALL.get(schema)
        if shows is not None and (name in self.closed or shows.fullmatch(name)):
            yield f"{name} cannot be used here: it shows what belongs to other tenants"

    def _cast(self, at: int) -> Iterator[str]:
        """Allow a cast to regclass or the like only from a literal string, or from an oid of the catalogs."""
        tokens, name = self.tokens, self.tokens[at].value
        start = at - 2 if self._is(at - 1, ".") and tokens[at - 2].value == "pg_catalog" else at
        before = tokens[start - 1] if start else None
        if before is not None and before.is_mark("::"):
            fine = not self._is(at + 1, "[") and self._is_plain(self._operand(start - 1))
        elif before is not None and before.is_word("as"):
            fine = not self._is(at + 1, ")", "[") or self._is_cast(start - 1)
        elif self._is(at + 1, "("):
            fine = all(map(self._is_plain, self._split(at + 1)))
        else:
            fine = at + 1 < len(tokens) and tokens[at + 1].is_string and not self._is(start - 1, ".")
        if not fine:
            yield f"{name}: only a literal string, or an oid of the catalogs, can be cast to it here"

    def _operand(self, end: int) -> Sequence[Token]:
        """Return the value before `::`: one token, a dotted name, or a call without arguments."""
        tokens, start = self.tokens, end - 1
        if self._is(start, ")") and self._is(start - 1, "("):
            start -= 2
        while tokens[start].is_name and self._is(start - 1, "."):
            start -= 2
        return tokens[max(start, 0) : end]

    def _is_cast(self, as_: int) -> bool:
        """Tell whether CAST ( stands before a plain value, which ends before this AS."""
        value = self._operand(as_)
        start = as_ - len(value)
        return self._is(start - 1, "(") and self.tokens[start - 2].is_word("cast") and self._is_plain(value)

    def _arguments(self, at: int) -> Iterator[str]:
        name = self.tokens[at].value
        if self._is(at + 1, "("):
            if not all(map(self._is_plain, self._split(at + 1))):
                yield f"{name}: its arguments must be literals here, or oids of the catalogs"
        elif self._is(at - 1, "."):
            yield f"{name} cannot be used here as a field: call it"

    def _split(self, start: int) -> Iterator[Sequence[Token]]:
        """Yield the arguments in the bracket that opens at `start`."""
        depth, first = 0, start + 1
        for at in range(start, len(self.tokens)):
            depth += self._is(at, "(", "[") - self._is(at, ")", "]")
            if depth == 0 or (depth == 1 and self._is(at, ",")):
                yield self.tokens[first:at]
                first = at + 1
            if depth == 0:
                return

    def _is_plain(self, value: Sequence[Token]) -> bool:
        """Tell whether a value is known: a literal, an oid of the catalogs, or the current schema, database or user."""
        if len(value) > 2 and value[0].is_name and value[1].is_mark("=>", ":="):
            value = value[2:]
        if len(value) > 2 and value[-2].is_mark("::") and (_REG.fullmatch(value[-1].value) or value[-1].value == "oid"):
            value = value[:-2]
        if len(value) == 3 and value[0].value in _HERE and _is(value, 1, "("):
            return True
        if len(value) == 1 and (value[0].is_word(*_ITSELF) or not (value[0].is_name or value[0].is_mark(*"()[]."))):
            return True
        parts, dots = value[::2], value[1::2]
        return (
            bool(parts) and all(part.is_name for part in parts) and all(dot.is_mark(".") for dot in dots)
            and parts[-1].value in self.oids
        ) or not value  # fmt: skip

    def _strings(self) -> Iterator[str]:
        """Check all strings of a statement in which some string may become a name: the text does not tell which."""
        names = {token.value for token in self.tokens if token.is_name}
        if not any(_REG.fullmatch(name) or name in self.takers or _TAKES_NAMES.fullmatch(name) for name in names):
            return
        whole = any(_NAMES_SCHEMAS.fullmatch(name) for name in names)
        for token in self.tokens:
            found = (
                [*_prefixes(token.value), *([_fold(token.value.strip())] if whole else [])] if token.is_string else []
            )
            for name in found:
                if name in self.others:
                    yield f"{token.value!r} names another schema than the tenant's, and cannot be used here"
