"""Finding a secret in a text in any form: quoted, escaped, encoded, coloured, or broken over lines.

A pattern of each secret says for each character in which ways programs write it: as itself, with backslashes before it, as
Python's `repr`, JSON, HTML, a URL, SQL or a shell would. Wholly encoded forms (base64, hexadecimal) are searched as they are.
What may stand inside a secret on a screen (colours, tags, line ends) is taken out of a text for a second look.
"""

from __future__ import annotations

import re
from base64 import b64encode, urlsafe_b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from html.entities import codepoint2name
from itertools import accumulate

_MASK = "***"
_ANYWHERE = 6  # characters; a shorter word is as likely to be a part of what should be read
_WHOLE_WORD = (
    4  # characters; a word as short as that is masked where it stands alone, a shorter one only beside its key
)
_LONG = 24  # characters; of a longer token, which a table may cut short, each piece is masked
_PIECE = 16
_ESCAPED = 40  # characters at most for one; how far to look back for what precedes letters and digits

# What may stand between two characters of a secret: a terminal's colours and ends of lines; tags of HTML.
_IN_TERMINAL = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\r\n]+"
_BETWEEN = (re.compile(_IN_TERMINAL), re.compile(f"{_IN_TERMINAL}|<[^<>]*>"))

# Each repetition has an upper bound, so that no text takes more than linear time.
_BACKSLASH = r"(?:\\|%(?:25){0,3}5[Cc]|&#92;|&#[xX]5[cC];)"
_ANY, _SOME = "{0,15}+", "{1,15}+"  # each of four levels of quoting doubles what the one before it wrote
_AMPERSAND = r"(?:&(?:amp;|#38;|#[xX]26;){0,4}+|%(?:25){0,3}26|\\u0026)"
_SEMICOLON = r"(?:;|%(?:25){0,3}3[bB])"
_OTHERWISE = {  # what SQL, CSV, formats, shells and forms make of a character, the longer first
    "'": rf"""'"'"'|'{_BACKSLASH}{_SOME}''|''|{_AMPERSAND}apos{_SEMICOLON}""",
    '"': '""',
    "%": "%%",
    "{": r"\{\{",
    "}": r"\}\}",
    " ": r"\+",
    "&": _AMPERSAND,
}
_NAMED = {"\t": "t", "\b": "b", "\f": "f", "\v": "v", "\a": "a"}


class Hider:
    """Replaces words by `***` in texts.

    A word of six characters and more is found anywhere, one of four or five where it stands alone, and a shorter one, which
    would be found everywhere, only as a password in a connection string or URL.
    """

    def __init__(self, words: Iterable[str]) -> None:
        given = {word for word in words if word.strip()}
        pieces = {piece for word in given for piece in _pieces(word)}
        ordered = sorted(given | pieces, key=lambda word: (-len(word), word))
        self._words = [_Word(word) for word in ordered]
        self._encoded = [
            form for word in ordered if word in given and len(word) >= _ANYWHERE for form in _encoded(word)
        ]

    def hide(self, *texts: str) -> list[str]:
        """Return the texts with the words masked, those too that begin in one text and end in a later one."""
        whole = "".join(texts)
        spans = self._find(whole)
        if not spans:
            return list(texts)
        ends = list(accumulate(map(len, texts)))
        return [_rewrite(whole, end - len(text), end, spans) for text, end in zip(texts, ends, strict=True)]

    def _find(self, text: str) -> list[tuple[int, int, bool]]:
        """Return what to take out: from, to, and whether the mask goes there, as in the first part of a broken word."""
        if not self._words:
            return []
        found = [(start, end, True) for start, end in self._matches(text)]
        for between in _BETWEEN:
            bare, count = between.subn("", text)
            spans = list(self._matches(bare)) if count else []
            if spans:  # where everything was costs more than to look
                view = _View(text, between)
                for start, end in spans:
                    found += [(a, b, n == 0) for n, (a, b) in enumerate(view.parts(start, end))]
        return _merge(found)

    def _matches(self, text: str) -> Iterator[tuple[int, int]]:
        for word in self._words:
            yield from word.matches(text)
        for core, pattern in self._encoded:
            if core in text:
                yield from (match.span() for match in pattern.finditer(text))


class _Word:
    """One secret: a fast search for its letters and digits, and patterns for what stands before and after these."""

    def __init__(self, word: str) -> None:
        runs = re.findall("[A-Za-z0-9]+", word)
        self._needle = max(runs, key=len) if runs else ""
        at = word.index(runs[0]) if runs and len(word) >= _ANYWHERE else 0
        self._reach = _ESCAPED * at
        self._before = re.compile(f"(?:{_pattern(word[:at])})\\Z") if at else None
        self._rest = re.compile(_in_context(word) if len(word) < _ANYWHERE else _begun(word[at:]))

    def matches(self, text: str) -> Iterator[tuple[int, int]]:
        if self._needle not in text:
            return
        at = 0
        while match := self._rest.search(text, at):
            start, at = match.span()
            if self._before is None:
                yield start, at
            elif before := self._before.search(text, max(0, start - self._reach), start):
                yield before.start(), at
            else:
                at = start + 1


class _View:
    """Maps positions in a text without what may stand inside a word to positions in the whole text."""

    def __init__(self, text: str, between: re.Pattern[str]) -> None:
        self._at, self._was, length, end = [0], [0], 0, 0
        for match in between.finditer(text):
            length, end = length + match.start() - end, match.end()
            self._at.append(length)
            self._was.append(end)

    def parts(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where the parts of `start` to `end` are in the whole text."""
        n = bisect_right(self._at, start) - 1
        while start < end:
            stop = min(end, self._at[n + 1]) if n + 1 < len(self._at) else end
            if start < stop:
                yield self._was[n] + start - self._at[n], self._was[n] + stop - self._at[n]
            start, n = stop, n + 1


def _rewrite(whole: str, start: int, end: int, spans: Sequence[tuple[int, int, bool]]) -> str:
    parts, at = [], start
    first = max(0, bisect_right(spans, (start, 0, False)) - 1)
    for a, b, is_masked in spans[first:]:
        if a >= end:
            break
        if b > at:
            parts += [whole[at : max(a, at)], _MASK if is_masked and a >= start else ""]
            at = min(b, end)
    return "".join([*parts, whole[at:end]])


def _merge(found: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    merged: list[tuple[int, int, bool]] = []
    for start, end, is_masked in sorted(found, key=lambda span: (span[0], -span[1], not span[2])):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
        else:
            merged.append((start, end, is_masked))
    return merged


def _pieces(word: str) -> set[str]:
    """Return the lines of a secret of several, as a key has them, and the pieces of a long token."""
    lines = {line.strip() for line in word.splitlines() if not line.startswith("-----")} if "\n" in word else set()
    pieces = {line for line in lines if len(line) >= _PIECE}
    if len(word) > _LONG and re.fullmatch(r"[\w.+/=~-]+", word):
        pieces |= {word[n : n + _PIECE] for n in range(0, len(word) - _PIECE, _PIECE)} | {word[-_PIECE:]}
    return pieces


def _in_context(word: str) -> str:
    """Return the pattern of a short word: standing alone, or, if it is very short, as the password that it is."""
    if len(word) >= _WHOLE_WORD:
        return rf"(?<!\w){_pattern(word)}(?!\w)"
    return rf"""(?:(?<=password=)|(?<=password=')|(?<=password=")){_pattern(word)}(?!\w)|(?<=:){_pattern(word)}(?=@)"""


def _begun(word: str) -> str:
    """Return the pattern of a word; where it begins with a character of many forms, one that looks at its first one first."""
    if re.match("[A-Za-z0-9]", word):
        return _pattern(word)
    return rf"(?=[\\%&+{re.escape(word[0])}]){_pattern(word)}"


def _pattern(word: str) -> str:
    """Return a pattern of the ways to write a word; of its backslashes, there may be more than there are."""
    parts = re.findall(r"\\+|[\r\n]+|.", word, re.DOTALL)
    return "".join(
        f"{_BACKSLASH}{{{len(part)},{16 * len(part)}}}" if part[0] == "\\" else _character(part) for part in parts
    )


def _character(one: str) -> str:
    if one.isascii() and one.isalnum():
        return one
    if one[0] in "\r\n":  # it may have been taken out, or turned into the other kind
        written = (
            rf"{_BACKSLASH}{_SOME}(?:[nr]|x0[adAD]|u000[adAD])|%(?:25){{0,3}}0[aAdD]|{_AMPERSAND}#(?:1[03]|[xX][aAdD]);"
        )
        return rf"(?:[\r\n]|{written}){{0,{4 * len(one)}}}+"
    code, utf8 = ord(one), one.encode("utf-8", "surrogatepass")
    name = codepoint2name.get(code)
    entities = f"{_AMPERSAND}(?:{name}|#0{{0,6}}{code}|#[xX]0{{0,6}}{_hex(f'{code:x}')}){_SEMICOLON}"
    forms = [_OTHERWISE.get(one, ""), entities, "".join(f"%(?:25){{0,3}}{_hex(f'{byte:02x}')}" for byte in utf8)]
    plain = "|".join([*filter(None, forms), re.escape(one)])
    return f"(?:{_BACKSLASH}{_ANY}(?:{plain})|{_backslashed(one, utf8)})"


def _backslashed(one: str, utf8: bytes) -> str:
    """Return the pattern of a character as Python, JSON and PostgreSQL escape one by its number."""
    code, utf16 = ord(one), one.encode("utf-16-be", "surrogatepass").hex()
    units = [utf16[n : n + 4] for n in range(0, len(utf16), 4)]
    forms = [
        rf"{_BACKSLASH}{_SOME}u".join(["", *map(_hex, units)]),
        rf"{_BACKSLASH}{_SOME}U{_hex(f'{code:08x}')}",
        rf"{_BACKSLASH}{_SOME}x".join(["", *(_hex(f"{byte:02x}") for byte in utf8)]),
        "".join(rf"{_BACKSLASH}{_SOME}{byte:03o}" for byte in utf8),
    ]
    forms += [rf"{_BACKSLASH}{_SOME}x{_hex(f'{code:02x}')}"] if code < 256 else []
    forms += [rf"{_BACKSLASH}{_SOME}{_NAMED[one]}"] if one in _NAMED else []
    return "|".join(forms)


def _hex(digits: str) -> str:
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in digits)


def _encoded(word: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield the wholly encoded forms of a word, each with the pattern of what to mask."""
    data = word.encode("utf-8", "surrogatepass")
    forms = [data.hex(), "".join(f"%{byte:02x}" for byte in data), "".join(f"\\x{byte:02x}" for byte in data)]
    forms += ["".join(f"\\u{ord(one):04x}" for one in word), "".join(f"&#x{ord(one):x};" for one in word)]
    upper = [re.sub("[a-f]", lambda digit: digit[0].upper(), form) for form in forms]
    for form in {*forms, *upper, "".join(f"&#{ord(one)};" for one in word)}:
        yield form, re.compile(re.escape(form))
    for core in _base64(data):
        yield core, re.compile(rf"[\w+/-]?{re.escape(core)}[\w+/-]?=*")


def _base64(data: bytes) -> set[str]:
    """Return what is the same in base64 of anything with `data` in it, as `user:password` of HTTP has it."""
    cores = set()
    for before in range(3):
        first, last = -(-8 * before // 6), 8 * (before + len(data)) // 6
        for encode in (b64encode, urlsafe_b64encode):
            cores.add(encode(b"\0" * before + data + b"\0\0").decode()[first:last])
    return cores
