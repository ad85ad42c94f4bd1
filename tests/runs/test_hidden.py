"""A secret is masked in whatever way programs write text, and what is no secret is left alone."""

from __future__ import annotations

import csv
import html
import io
import json
import random
import shlex
import time
import urllib.parse
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable

import pandas
import psycopg.sql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from erpkit.runs.hidden import Hider

SECRETS = [
    "hunter22", 'pa"ss\'wo\\rd', "p&ss<w>rd;x", "100%/sure+ok=", "a b\tc{d}e$f`g!",
    r"(.*)+[a-z]\d|^$", "пароль-ключ", "sn☃w\U0001f600man",
    "§$%&/()=?", '"quoted"', "\\\\server\\share", "'tis'secret'", "line one\nline two\nline three",
]  # fmt: skip

WAYS: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "repr": repr,
    "ascii": ascii,
    "repr of repr": lambda s: repr(repr(s)),
    "bytes": lambda s: repr(s.encode()),
    "json": json.dumps,
    "json of unicode": lambda s: json.dumps(s, ensure_ascii=False),
    "json with slashes": lambda s: json.dumps(s).replace("/", "\\/"),
    "json of json": lambda s: json.dumps(json.dumps({"a": s})),
    "json for html": lambda s: json.dumps(s).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
    "html": html.escape,
    "html text": lambda s: html.escape(s, quote=False),
    "html of html": lambda s: html.escape(html.escape(s)),
    "html with numbers": lambda s: "".join(c if c.isascii() and c.isalnum() else f"&#{ord(c)};" for c in s),
    "html all numbers": lambda s: "".join(f"&#x{ord(c):X};" for c in s),
    "xml": lambda s: s.encode("ascii", "xmlcharrefreplace").decode(),
    "html of repr": lambda s: html.escape(repr(s)),
    "html of json": lambda s: html.escape(json.dumps({"password": s})),
    "url": urllib.parse.quote,
    "url safe": lambda s: urllib.parse.quote(s, safe=""),
    "url plus": urllib.parse.quote_plus,
    "url lower": lambda s: "".join(c if c.isalnum() and c.isascii() else "".join(f"%{b:02x}" for b in c.encode()) for c in s),
    "url all": lambda s: "".join(f"%{b:02X}" for b in s.encode()),
    "url of url": lambda s: urllib.parse.quote(urllib.parse.quote(s, safe=""), safe=""),
    "url of json": lambda s: urllib.parse.quote(json.dumps({"a": s})),
    "sql": lambda s: psycopg.sql.Literal(s).as_string(None),
    "csv": lambda s: _csv(s),
    "shell": shlex.quote,
    "shell in double quotes": lambda s: '"' + "".join("\\" + c if c in '"\\$`' else c for c in s) + '"',
    "base64": lambda s: b64encode(s.encode()).decode(),
    "basic": lambda s: f"Authorization: Basic {b64encode(b'operator:' + s.encode()).decode()}",
    "basic of another length": lambda s: b64encode(b"me:" + s.encode() + b"\n").decode(),
    "base64 for urls": lambda s: urlsafe_b64encode(b"u:" + s.encode()).decode(),
    "bytea": lambda s: "\\x" + s.encode().hex(),
    "rich": lambda s: _rich(s),
    "frame": lambda s: pandas.DataFrame({"a": [s]}).to_html(),
    "frame as text": lambda s: pandas.DataFrame({"a": [s]}).to_string(),
    "lines": lambda s: "\n".join(s),
    "coloured": lambda s: "\x1b[31m".join(s),
    "coloured with more": lambda s: "\x1b[0m\x1b[38;5;241m".join([s[:4], s[4:]]),
    "tags": lambda s: "</span><span class='mi'>".join(map(html.escape, [s[:4], s[4:]])),
}  # fmt: skip


def _csv(text: str) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([text, 1])
    return out.getvalue()


def _rich(text: str) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print({"a": text})
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_masked_in_every_way_to_write_it(way: str) -> None:
    for secret in SECRETS:
        written = WAYS[way](secret)
        (shown,) = Hider([secret]).hide(f"before {written} after")
        assert "***" in shown, (secret, written)
        assert shown.startswith("before ")
        assert shown.endswith(" after")
        kept = shown.removeprefix("before ").removesuffix(" after").replace("***", "")
        left = [run for run in secret.replace("\n", " ").split() if len(run) > 3 and run in kept]
        assert left == [], (secret, written, shown)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=6, max_size=30), st.sampled_from(sorted(WAYS)))
def test_any_secret_is_masked_in_any_way(secret: str, way: str) -> None:
    if len(secret.strip()) < 6 or way in ("rich", "frame", "frame as text", "lines", "coloured", "tags"):
        return
    if way == "sql" and "\0" in secret:  # PostgreSQL has no text with that
        return
    assert "***" in Hider([secret]).hide(f"<{WAYS[way](secret)}>")[0]


def test_a_secret_over_several_texts_is_masked_and_what_stands_between_stays() -> None:
    hider = Hider(["hunter22 of db"])
    assert hider.hide("see hunt", "er22", " of db!", " end") == ["see ***", "", "!", " end"]
    assert hider.hide("hunter\n", "22 of ", "db\n", "hunter22 of db") == ["***\n", "", "\n", "***"]
    assert hider.hide("\x1b[31mhunter\x1b[0m22 of db\x1b[0m") == ["\x1b[31m***\x1b[0m\x1b[0m"]
    assert hider.hide(*"hunter22 of db") == ["***", *[""] * 13]


def test_the_lines_of_a_key_and_the_pieces_of_a_long_token_are_secrets_too() -> None:
    lines = [
        "-----BEGIN PRIVATE KEY-----",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
        "BKcwggSjAgEAAoIBAQC7",
        "-----END PRIVATE KEY-----",
    ]
    hider = Hider(["\n".join(lines), "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlc2lnbmF0dXJl"])
    assert hider.hide(f"x {lines[1]} y {lines[0]}") == [f"x *** y {lines[0]}"]
    assert hider.hide("\n".join(lines)) == ["***"]
    assert hider.hide(repr(lines[1:3])) == ["['***', '***']"]
    assert "eyJhbGci" not in hider.hide("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEif...")[0]


def test_a_short_word_is_masked_only_where_it_stands_for_itself() -> None:
    hider = Hider(["erp1", "abc"])
    assert hider.hide("erp1 of erp12 in my_erp1: 'erp1'") == ["*** of erp12 in my_erp1: '***'"]
    assert hider.hide("abc abcd postgresql://me:abc@host password=abc password='abc'") == [
        "abc abcd postgresql://me:***@host password=*** password='***'"
    ]


def test_what_is_no_secret_stays() -> None:
    hider = Hider(["hunter22", "p@ss-word"])
    for text in ("hunter 22", "hunter2", "p@ss_word", "<b>hunter</b> of 22", "", "100 %", "\x1b[31mred\x1b[0m\n"):
        assert hider.hide(text) == [text]
    assert Hider(["", "  "]).hide("a  b") == ["a  b"]


def test_a_large_output_is_masked_in_linear_time() -> None:
    words = random.Random(1).choices(
        ["order", "hunter", "&amp;", "\\\\n", "<td>", "\n", "22", "%20", "p", "''"], k=400_000
    )
    text = " ".join(words)
    hider = Hider(["hunter22", "p@ss'w%rd", "§$%&/()=?", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlc2ln"])
    times = []
    for part in (text[: len(text) // 4], text):
        began = time.process_time()
        assert hider.hide(part) == [part]
        times.append(time.process_time() - began)
    assert times[1] < 12 * times[0] + 0.1  # four times as much text
    hostile = "\\" * 200_000 + "<" * 200_000 + "&amp;" * 50_000 + "\n" * 50_000 + "%25" * 50_000
    began = time.process_time()
    assert hider.hide(hostile) == [hostile]
    assert time.process_time() - began < 30
