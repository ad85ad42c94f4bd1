"""The names in a SQL text, and how sure it is that each names a table, a type or a function. Pure.

It reads what sqlglot does not: PL/pgSQL, DDL of every kind, half a statement in a Python string. The server alone resolves a name,
so the place where one stands decides: behind FROM it is a table, inside a string it is only a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from erpkit.migrations.tokens import Token, read_tokens

Place = Literal["table", "call", "word", "string"]


@dataclass(frozen=True)
class Mention:
    """A name in a SQL text, and the line that it stands on, counted from 1.

    `place` is `table` where SQL has a relation or a type, `call` before a bracket, `string` inside a string, `word` elsewhere.
    """

    name: str
    line: int
    place: Place


_OBJECTS = ("table", "view", "sequence", "type", "domain", "function", "procedure", "aggregate", "index", "statistics")
_MANY = frozenset({"from", "truncate", "lock", "inherits", *_OBJECTS})  # before a list of names with commas
_BEFORE = _MANY | {"join", "update", "references", "of", "copy", "using"}
_BETWEEN = frozenset({"only", "if", "not", "exists", "concurrently", "partition", "lateral", "attach"})
_CLAUSES = frozenset({"where", "group", "order", "having", "window", "limit", "offset", "fetch", "for", "set", "select", "on", "using",
                      "union", "except", "intersect", "returning", "values"})  # fmt: skip
_ON = frozenset({"index", "trigger", "policy", "rule"})  # CREATE TRIGGER … ON table
_WITH_FROM = frozenset({"extract", "substring", "trim", "overlay"})
# functions of a relation's name
_OF_NAME = frozenset({"nextval", "currval", "setval", "to_regclass", "pg_get_serial_sequence"})
_WORD = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*")
_STATEMENT = re.compile(
    r"(?:[\s(]|--[^\n]*\n|/\*.*?\*/)*(?:select|insert|update|delete|merge|with|truncate|copy|alter|create|drop|lock|call|do|explain"
    r"|refresh|table|grant|revoke|comment|declare|prepare|vacuum|analyze|reindex)\s",
    re.IGNORECASE | re.DOTALL,
)
_DEEPEST = 20  # strings of SQL in strings of SQL
_FURTHEST = 200  # tokens of a list of columns


def words_of(text: str) -> set[str]:
    """Return the words of a text, as they are written and in lower case: what is not among them is not named in it."""
    words = {*_WORD.findall(text)}
    return words | {word.lower() for word in words}


def is_statement(text: str) -> bool:
    """Tell whether a text begins as a statement of SQL does."""
    return _STATEMENT.match(text) is not None


def is_telling(name: str) -> bool:
    """Tell whether a name by itself is more than a word of prose: `order_lines`, not `orders`."""
    return not name.isalpha() or not name.islower()


def read_words(text: str, line: int = 1) -> Iterator[Mention]:
    """Yield the words of a text that is not SQL, without those of prose; one alone may be any."""
    for match in _WORD.finditer(text):
        if is_telling(match[0]) or match[0] == text:
            line_of = line + text.count("\n", 0, match.start())
            yield from (Mention(name, line_of, "string") for name in {match[0], match[0].lower()})


def read_names(text: str, line: int = 1, *, depth: int = 0) -> Iterator[Mention]:
    """Yield the names in a SQL text, and in the bodies and statements in its strings; what its WITH defines is no table.

    A word that stands nowhere in particular is left out where it may be prose or a column: `orders`.
    """
    tokens = list(read_tokens(text))
    reader = _Reader(tokens)
    defined, before = reader.common_tables(), 0
    for at, name, place in reader.names():
        line += text.count("\n", before, tokens[at].start)
        before = tokens[at].start
        if place == "string":
            yield from _in_string(name, line, depth, is_body=reader.is_body(at))
        elif place == "word" and not is_telling(name) and tokens[at].kind == "word":
            continue
        elif not (place in ("table", "call") and name in defined):
            yield Mention(name, line, place)


def _in_string(text: str, line: int, depth: int, *, is_body: bool) -> Iterator[Mention]:
    if depth < _DEEPEST and is_body:
        yield from read_names(text, line, depth=depth + 1)
    elif depth < _DEEPEST and is_statement(text):
        yield from (replace(one, place="string") for one in read_names(text, line, depth=depth + 1))
    else:
        yield from read_words(text, line)


class _Reader:
    """The tokens of a text, with what stands before and behind each."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._values = [token.value for token in tokens]
        self._head = 0  # where the statement begins
        self._brackets: list[str] = []  # the words before those that are open
        self._list: int | None = None  # how many brackets are open around a list of names

    def names(self) -> Iterator[tuple[int, str, Place]]:
        """Yield each name, and each string whole, with the number of its token."""
        at = 0
        while at < len(self._tokens):
            kind = self._tokens[at].kind
            if kind in ("word", "name") and not self._values[at][:1].isdigit():
                end = self._end_of_name(at)
                yield from ((n, self._values[n], place) for n, place in self._places(at, end))
                at = end
            elif kind == "string" and self._is_relation(at):
                yield at, self._values[at].rpartition(".")[2].lower(), "table"
            elif kind == "string":
                yield at, self._values[at], "string"
            elif kind == "open":
                yield at, self._tokens[at].text, "string"
            elif kind == "mark":
                self._pass(at)
            at += 1

    def common_tables(self) -> set[str]:
        """Return what a WITH defines: `name AS (`, or `name (columns) AS (`."""
        found = set[str]()
        for at in range(1, len(self._tokens) if "with" in self._values else 0):
            if self._value(at - 1) in ("with", "recursive", ","):
                after = at + 1
                if self._value(after) == "(":
                    after = next((n for n in range(after, after + _FURTHEST) if self._value(n) == ")"), after) + 1
                if self._value(after) == "as" and "(" in self._values[after + 1 : after + 4]:
                    found.add(self._values[at])
        return found

    def is_body(self, at: int) -> bool:
        """Tell whether a string is the body of a function or of DO."""
        return self._value(at - 1) in ("as", "do") or self._values[max(at - 3, 0) : at - 1] == ["do", "language"]

    def _places(self, start: int, end: int) -> Iterator[tuple[int, Place]]:
        """Yield the parts of a dotted name that count, with their places."""
        behind = self._values[end + 1 : end + 3]
        if self._values[start] in _CLAUSES:
            self._list = None
        if behind in (["%", "rowtype"], ["%", "type"]):
            yield max(start, end - 2 * (behind[1] == "type")), "table"
        elif self._is_table(start):
            yield end, "table"
            lead = self._values[self._lead(start)]
            self._list = len(self._brackets) if lead in (*_MANY, ",", "(") else None
        elif behind[:1] == ["("]:
            yield end, "call"
        else:
            for at in range(start, end + 1, 2):
                yield at, "word"

    def _is_table(self, start: int) -> bool:
        at = self._lead(start)
        lead, before = self._value(at), self._value(at - 1)
        match lead:
            case ",":
                return self._list == len(self._brackets)
            case "into":
                return before in ("insert", "merge")
            case "from":
                return before != "distinct" and not (self._brackets and self._brackets[-1] in _WITH_FROM)
            case "on":
                head = self._values[self._head : self._head + 4]
                return head[:1] in (["comment"], ["grant"], ["revoke"]) or (
                    head[:1] in (["create"], ["drop"], ["alter"]) and not _ON.isdisjoint(head)
                )
            case "(":
                return before == "inherits" or self._is_joined(at)
            case ":":
                return before == ":"  # a cast to a type
            case "like":
                return "table" in self._values[self._head : self._head + 4]
        return lead in _BEFORE

    def _is_joined(self, at: int) -> bool:
        """Tell whether a bracket opens behind FROM or JOIN: `FROM ONLY (a)`, `FROM ((a JOIN b …`."""
        while self._value(at) == "(":
            at = self._lead(at)
        is_from = self._value(at) == "from" and self._value(at - 1) != "distinct"
        return (is_from or self._value(at) == "join") and _WITH_FROM.isdisjoint(self._brackets)

    def _is_relation(self, at: int) -> bool:
        """Tell whether a string is a relation's name: `'orders_id_seq'::regclass`, `nextval('orders_id_seq')`."""
        is_name = all(_WORD.fullmatch(part) for part in self._values[at].split("."))
        is_cast = self._values[at + 1 : at + 4] == [":", ":", "regclass"]
        return is_name and (is_cast or (self._value(at - 1) == "(" and self._value(at - 2) in _OF_NAME))

    def _lead(self, start: int) -> int:
        """Return the number of the token that stands before a name."""
        at = start - 1
        while self._value(at) in _BETWEEN:
            at -= 1
        return at

    def _end_of_name(self, at: int) -> int:
        """Return the number of a dotted name's last part."""
        while (
            self._value(at + 1) == "." and at + 2 < len(self._tokens) and self._tokens[at + 2].kind in ("word", "name")
        ):
            at += 2
        return at

    def _pass(self, at: int) -> None:
        text = self._values[at]
        if text == "(":
            self._brackets.append(self._value(at - 1))
        elif text == ")" and self._brackets:
            self._brackets.pop()
        elif text == ";":
            self._head, self._brackets, self._list = at + 1, [], None

    def _value(self, at: int) -> str:
        return self._values[at] if 0 <= at < len(self._values) else ""
