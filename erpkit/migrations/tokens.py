"""The tokens of a SQL text, and where its statements end: by PostgreSQL's lexical rules, and psql's for what holds a semicolon.

Source of the rules: PostgreSQL manual, "Lexical Structure", and psql's scanner (src/fe_utils/psqlscan.l), which counts brackets
and, in the body of an SQL function, BEGIN, CASE and END.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Statement", "Token", "end_of_comment", "read_tokens", "split_statements"]

_TOKEN = r"""
      (?P<space> \s+ | --[^\n]* )
    | (?P<block> /\* )
    | (?P<escaped> [eE]' (?: [^'\\] | '' | \\. )* (?P<e>') )
    | (?P<string> (?: [bBxXnN] | [uU]& )? ' (?: [^'] | '' )* (?P<s>'|\Z) )
    | (?P<name> (?: [uU]& )? " (?: [^"] | "" )* (?P<n>"|\Z) )
    | (?P<dollar> \$ (?P<tag> (?:[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]*)? ) \$ .*? (?P<d> \$ (?P=tag) \$ | \Z ) )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][\w$]* | \d[\w.]* )
    | (?P<mark> . )
    """
_ENDS = ("e", "s", "n", "d")
_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True)
class Token:
    """A token, and where it stands; `kind` is word, name, string, mark, or open for a quote or comment without an end."""

    kind: str
    text: str
    start: int

    @property
    def value(self) -> str:
        """A name as PostgreSQL looks it up; a word in lower case; the characters of a string, whose escapes are left."""
        if self.kind == "name":
            return self.text[1:-1].replace('""', '"') if self.text[0] == '"' else self.text
        if self.kind == "string":
            if self.text[0] == "$":
                mark = self.text[: self.text.index("$", 1) + 1]
                return self.text[len(mark) : -len(mark)]
            return self.text.split("'", 1)[-1][:-1].replace("''", "'")
        return self.text.lower()


@dataclass(frozen=True)
class Statement:
    """One statement of a text: its tokens, without the semicolon."""

    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        """Where it begins in the text."""
        return self.tokens[0].start

    @property
    def words(self) -> tuple[str, ...]:
        """Its tokens as they are looked up."""
        return tuple(token.value for token in self.tokens)


def read_tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a text, without blanks and comments."""
    position, token = (
        0,
        re.compile(_TOKEN, re.VERBOSE | re.DOTALL),
    )  # here, as to compile it takes longer than most imports
    while match := token.match(text, position):
        position, kind = match.end(), match.lastgroup or ""
        if kind == "space":
            continue
        if kind == "block":
            end = end_of_comment(text, position)
            position = len(text) if end is None else end
            if end is None:
                yield Token("open", match[0], match.start())
            continue
        if kind not in ("word", "mark"):
            is_open = any(match[end] == "" for end in _ENDS)
            kind = "open" if is_open else "name" if kind == "name" else "string"
        yield Token(kind, match[0], match.start())


def end_of_comment(text: str, position: int) -> int | None:
    """Return where a comment ends that began before `position`; comments may stand in comments."""
    depth = 1
    while depth:
        edge = _EDGE.search(text, position)
        if edge is None:
            return None
        depth += 1 if edge[0] == "/*" else -1
        position = edge.end()
    return position


def split_statements(text: str) -> list[Statement]:
    """Return the statements of a text, as the server counts them: what is empty is none."""
    statements, tokens, brackets, blocks, is_routine = list[Statement](), list[Token](), 0, 0, False
    for token in read_tokens(text):
        if token.kind == "mark":
            brackets += (token.text == "(") - (token.text == ")")
        elif is_routine and token.kind == "word":
            blocks = _count_blocks(blocks, token.value)
        if token.text == ";" and brackets <= 0 and not blocks:
            statements += [Statement(tuple(tokens))] if tokens else []
            tokens, brackets, is_routine = [], 0, False
            continue
        tokens.append(token)
        is_routine = is_routine or (len(tokens) in (2, 4) and _defines_routine(tokens))
    return [*statements, *([Statement(tuple(tokens))] if tokens else [])]


def _defines_routine(tokens: list[Token]) -> bool:
    before = [token.value for token in tokens[:-1]]
    return before in (["create"], ["create", "or", "replace"]) and tokens[-1].value in ("function", "procedure")


def _count_blocks(blocks: int, word: str) -> int:
    if word == "begin" or (word == "case" and blocks):
        return blocks + 1
    return blocks - 1 if word == "end" and blocks else blocks
