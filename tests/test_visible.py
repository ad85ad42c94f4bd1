"""What comes from elsewhere is shown, and does nothing: on a terminal, in a table, in HTML."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from erpkit.cli.output import print_json, print_table, say
from erpkit.errors import ErpkitError, UsageError
from erpkit.runs import Summary
from erpkit.runs.harmless import harmless
from erpkit.ui import show
from erpkit.visible import visible, visible_html

_CODES = (*range(32), *range(0x7F, 0xA0), 0xAD, 0x200B, 0x200E, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
ACTING = [chr(code) for code in (*_CODES, 0xDC80, 0xE0041)]


@pytest.mark.parametrize("one", ACTING, ids=ascii)
def test_a_character_that_acts_is_shown_everywhere(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"acme{one}[red]x[/red]"
    say(name)
    print_table([name], [[name]])
    print_json({name: name})
    out = capsys.readouterr().out
    kept = [c for c in out if c in ACTING and c != "\n"]
    assert kept == []
    assert "[red]x[/red]" in out
    shown = out.splitlines()[0]
    assert shown.startswith("acme\\")
    assert len(shown.splitlines()) == 1
    document = out[out.index("{") :]
    assert json.loads(document) == {name: name}
    assert ErpkitError(name)._render_traceback_()[0].count(one) == (one == "\n")
    assert one == "\n" or one not in str(Summary(name, {name: name}, [name]))


def test_a_value_with_lines_and_tabs_adds_no_row_and_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["tenant", "error"], [["acme", "one\ntwo\tthree\r\nfour " + "long " * 100], ["b\u2028c", "fine"]])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert len(lines) == 2  # one a row, in a pipe
    assert r"one\ntwo\tthree\r\nfour" in lines[0]


def test_letters_of_all_languages_stay_as_they_are() -> None:
    for text in ("Ünïcödé", "日本語", "می\u200cخواهم", "👨\u200d👩\u200d👧", "café", "C:\\new", "a–b …"):
        assert visible(text) == text
    assert visible("ac\u200dme") == "ac\\u200dme"
    assert visible_html("<a\x1b\n>") == "&lt;a\\x1b\n&gt;"


def test_a_table_in_a_notebook_shows_what_acts() -> None:
    import pandas

    table = show(pandas.DataFrame({"a\x1b": ["\u202egnp.exe", "<script>x</script>"]}))
    for text in (repr(table), table._repr_html_()):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert r"\u202egnp.exe" in text
    assert "<script>" not in table._repr_html_()


@pytest.mark.parametrize(
    "error", [UsageError("no tenant 'a\x1b]0;x\x07\nerpkit: fine'"), RuntimeError("a\x1b[2Jb"), ValueError("\u202e")]
)
def test_the_command_line_shows_errors_whole(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import erpkit.cli as cli

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli.erpkit, "main", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert ended.value.code == (2 if isinstance(error, UsageError) else 1)
    assert [c for c in err if c in ACTING and c != "\n"] == []
    assert not isinstance(error, UsageError) or err.count("\n") == 1


def test_harmless_html_stays_as_it_is() -> None:
    for text in (
        '<table class="dataframe" style="border:0"><thead><tr><th>a &lt; b</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>',
        '<style>#T td {color: red}</style><p id="T">text<br>more</p>',
        '<a href="https://host/a?b=1&amp;c=2">x</a><img src="data:image/png;base64,AAAA" alt="p">',
        '<svg viewBox="0 0 1 1"><defs><linearGradient id="g"></linearGradient></defs><path d="M0 0" fill="url(#g)"></path></svg>',
    ):
        assert harmless(text) == text
    assert harmless("<b>open <i>both") == "<b>open <i>both</i></b>"
    assert harmless("</div></main>text<!-- gone --><script>gone</script >x") == "textx"


def test_html_of_any_shape_is_read_in_linear_time() -> None:
    for piece in ("<b>", "</b>", "<a ", "<!--", "<a b='", "<script>", "<", '"', "<svg><style>", "&#", "<div/ "):
        began = time.perf_counter()
        harmless(piece * (200_000 // len(piece)))
        assert time.perf_counter() - began < 20, piece
