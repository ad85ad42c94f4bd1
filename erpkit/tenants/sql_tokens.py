"""Read the tokens of a SQL text by PostgreSQL's lexical rules, and write them as SQL again.

The server must read exactly what was checked. So the text that is sent is not the one that was typed but the one that `write`
makes of the tokens: without comments, with one kind of quotes, and a blank between any two tokens. Source of the rules:
PostgreSQL manual, "Lexical Structure", and src/backend/parser/scan.l.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from erpkit.errors import UsageError
from erpkit.plural import count_of

_LONGEST = 5_000_000  # characters
_MOST_TOKENS = 20_000
_DEEPEST = 60  # nested brackets; sqlglot takes some fifteen nested calls for each
_MOST_PIECES = 1_000  # of a string that continues after newlines
_NAME_BYTES = 63  # PostgreSQL cuts longer names off

_FIRST = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""(?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
    |(?P<comment>/\*)
    |(?P<unicode>[uU]&['"])
    |(?P<string>[eEbBxXnN]?')
    |(?P<quoted>"[^"]*(?:""[^"]*)*")
    |(?P<dollar>\$(?:[{_FIRST}][{_FIRST}0-9]*)?\$)
    |(?P<number>0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+
        |(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?)
    |(?P<word>[{_FIRST}][{_FIRST}0-9$]*)
    |(?P<operator>[~!@#^&|`?+\-*/%<>=]+)
    |(?P<mark>::|:=|[,()\[\].;:])""",
    re.VERBOSE,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PLAIN_BODY = re.compile(r"[^']*(?:''[^']*)*'")
_ESCAPED_BODY = re.compile(r"[^'\\]*(?:(?:\\.|'')[^'\\]*)*'", re.DOTALL)
_ESCAPE = re.compile(r"''|\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_PAIRS = {")": "(", "]": "["}


class Kind(Enum):
    """The kind of a token."""

    WORD = "word"
    QUOTED = "quoted name"
    STRING = "string"
    DOLLAR = "dollar-quoted string"
    BITS = "bit string"
    NUMBER = "number"
    OPERATOR = "operator"
    MARK = "mark"


@dataclass(frozen=True)
class Token:
    """One token: its SQL text and its value.

    The `value` of a name is the name as PostgreSQL looks it up, folded and truncated; that of a string are its characters.
    """

    kind: Kind
    text: str
    value: str

    @property
    def is_string(self) -> bool:
        """Whether it is a string, however it was quoted."""
        return self.kind in (Kind.STRING, Kind.DOLLAR)

    @property
    def is_name(self) -> bool:
        """Whether it is a word or a quoted name."""
        return self.kind in (Kind.WORD, Kind.QUOTED)

    def is_word(self, *words: str) -> bool:
        """Tell whether it is one of these words, unquoted, in any case; a quoted one is never a key word."""
        return self.kind is Kind.WORD and self.value in words

    def is_mark(self, *marks: str) -> bool:
        """Tell whether it is one of these marks or operators."""
        return self.kind in (Kind.MARK, Kind.OPERATOR) and self.value in marks


def read_tokens(text: str) -> list[Token]:
    """Return the tokens of `text`; raises UsageError for text that is invalid or ambiguous."""
    if len(text) > _LONGEST:
        raise UsageError(f"the SQL has {count_of(len(text), 'character')}: at most {_LONGEST:,} are read")
    if "\0" in text:
        raise UsageError("the SQL contains a NUL character")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageError("the SQL contains half of a surrogate pair, which is not a character")
    tokens = []
    for token in _Reader(text).tokens():
        tokens.append(token)
        if len(tokens) > _MOST_TOKENS:
            raise UsageError(
                f"the SQL has more than {_MOST_TOKENS:,} words and signs: pass long lists as one parameter"
            )
    _check_brackets(tokens)
    return tokens


def write(tokens: Sequence[Token]) -> str:
    """Return the SQL of the tokens, which is unambiguous."""
    return " ".join(token.text for token in tokens)


class _Reader:
    """A text and the position up to which it is read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._last_prefix = ""

    def tokens(self) -> Iterator[Token]:
        """Yield the tokens; a string that continues after a newline is one token."""
        last: Token | None = None
        newline, pieces = False, 0
        while self._at < len(self._text):
            found = self._match()
            kind = found.lastgroup
            if kind == "space":
                newline = newline or "\n" in found[0] or "\r" in found[0]
            elif kind == "comment":
                self._skip_comment()
                newline = False
            elif kind == "string" and found[0] == "'" and newline and last is not None and last.kind is Kind.STRING:
                pieces += 1
                if pieces > _MOST_PIECES:
                    raise UsageError("the SQL has a string of too many pieces: write it as one")
                last, newline = self._string(self._last_prefix, last.value), False
            else:
                if last is not None:
                    yield last
                last, newline = self._token(str(kind), found[0]), False
        if last is not None:
            yield last

    def _match(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise UsageError(_unreadable(self._text[self._at]))
        self._at = found.end()
        return found

    def _skip_comment(self) -> None:
        """Go to the end of a /* */ comment; PostgreSQL nests them."""
        depth = 1
        while depth:
            edge = _COMMENT_EDGE.search(self._text, self._at)
            if edge is None:
                raise UsageError("the SQL has a comment that is not closed: /* without */")
            depth += 1 if edge[0] == "/*" else -1
            self._at = edge.end()

    def _token(self, kind: str, text: str) -> Token:
        if kind == "unicode":
            raise UsageError("U& strings and names cannot be used here: write the characters themselves")
        if kind == "word":
            return _word(text)
        if kind == "quoted":
            return _quoted(text)
        if kind == "dollar":
            return self._dollar(text)
        if kind == "string":
            self._last_prefix = text[:-1].lower()
            return self._string(self._last_prefix, "")
        if kind == "number":
            return self._number(text)
        return self._operator(text) if kind == "operator" else Token(Kind.MARK, text, text)

    def _string(self, prefix: str, before: str) -> Token:
        """Read a string after its opening quote; `before` is the part that it continues."""
        body = (_ESCAPED_BODY if prefix == "e" else _PLAIN_BODY).match(self._text, self._at)
        if body is None:
            raise UsageError("the SQL has a string that is not closed: ' without '")
        self._at = body.end()
        inner = body[0][:-1]
        value = before + (_unescape(inner) if prefix == "e" else inner.replace("''", "'"))
        if prefix in ("b", "x", "n"):
            return _prefixed(prefix, value)
        return _string(value)

    def _dollar(self, tag: str) -> Token:
        end = self._text.find(tag, self._at)
        if end < 0:
            raise UsageError(f"the SQL has a string that is not closed: {tag} without {tag}")
        value, self._at = self._text[self._at : end], end + len(tag)
        self._last_prefix = ""
        return replace(_string(value), kind=Kind.DOLLAR)

    def _number(self, text: str) -> Token:
        after = self._text[self._at : self._at + 1]
        if re.match(rf"[{_FIRST}0-9$]", after):
            raise UsageError(f"the SQL has {text[:20] + after!r}: put a blank after the number")
        return Token(Kind.NUMBER, text, text)

    def _operator(self, run: str) -> Token:
        """End an operator as PostgreSQL does: before a comment, and before a + or - that belongs to the next value."""
        cut = min((at for at in (run.find("--"), run.find("/*")) if at >= 0), default=len(run))
        operator = run[:cut]
        if not set(operator) & set("~!@#%^&|`?"):
            operator = operator[0] + operator[1:].rstrip("+-")
        if len(operator) > _NAME_BYTES:
            raise UsageError("the SQL has an operator that is too long")
        self._at -= len(run) - len(operator)
        return Token(Kind.OPERATOR, operator, operator)


def _unreadable(sign: str) -> str:
    if sign == '"':
        return 'the SQL has a name that is not closed: " without "'
    hint = ": write a parameter as %s or %(name)s" if sign == "$" else ""
    return f"the SQL has {sign!r} which PostgreSQL does not accept there{hint}"


def _word(text: str) -> Token:
    value = _cut("".join(c.lower() if c.isascii() else c for c in text))  # PostgreSQL folds ASCII only
    return Token(Kind.WORD, text if text.isascii() else _quote(value), value)


def _quoted(text: str) -> Token:
    value = _cut(text[1:-1].replace('""', '"'))
    if not value:
        raise UsageError('the SQL has a name of no characters: ""')
    return Token(Kind.QUOTED, _quote(value), value)


def _string(value: str) -> Token:
    """Write a string so that it does not depend on standard_conforming_strings."""
    written = value.replace("'", "''")
    text = "E'" + written.replace("\\", "\\\\") + "'" if "\\" in value else f"'{written}'"
    return Token(Kind.STRING, text, value)


def _prefixed(prefix: str, value: str) -> Token:
    if "\\" in value:
        raise UsageError(f"the SQL has a backslash in a string that begins with {prefix.upper()}'")
    text = prefix.upper() + "'" + value.replace("'", "''") + "'"
    return Token(Kind.STRING if prefix == "n" else Kind.BITS, text, value)


def _unescape(body: str) -> str:
    """Resolve the escapes of an E'' string; raises UsageError for bytes that are not UTF-8."""

    def resolve(found: re.Match[str]) -> str:
        byte, short, long, octal, letter = found.groups()
        if byte or octal:
            code = int(byte, 16) if byte else int(octal, 8) & 0xFF
            return chr(code) if code < 0x80 else chr(0xDC00 + code)  # keeps the byte, as surrogateescape does
        if short or long:
            code = int(short or long, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise UsageError(f"the SQL has {found[0]} in a string: write the character itself")
            return chr(code)
        return "'" if letter is None else _LETTERS.get(letter, letter)

    value = _ESCAPE.sub(resolve, body)
    try:
        value = value.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise UsageError("the SQL has a string with escaped bytes that are no UTF-8") from None
    if "\0" in value:
        raise UsageError("the SQL contains a NUL character")
    return value


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cut(name: str) -> str:
    return name.encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")


def _check_brackets(tokens: Sequence[Token]) -> None:
    open_: list[str] = []
    for token in tokens:
        if token.is_mark("(", "["):
            open_.append(token.value)
            if len(open_) > _DEEPEST:
                raise UsageError(f"the SQL is nested too deeply: at most {_DEEPEST} brackets in each other are read")
        elif token.is_mark(")", "]") and (not open_ or open_.pop() != _PAIRS[token.value]):
            raise UsageError(f"the SQL has a {token.value} without its {_PAIRS[token.value]}")
    if open_:
        raise UsageError(f"the SQL has a {open_[-1]} that is not closed")
