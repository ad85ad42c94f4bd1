"""No secret gets out of a run, however a notebook writes it: outputs, report, record, news, and what the command line prints."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.runs import list_runs
from tests.command import erpkit
from tests.tiny import write_notebook

pytestmark = pytest.mark.usefixtures("warm_runs")

SECRET = 'hün<ter>\'22 of "the" day'
CELLS = (
    "import html, json, sys, os, base64, urllib.parse, shlex, pandas\nfrom IPython.display import HTML, JSON, display\n"
    "s = os.environ['ERP_SECRET']\n"
    "print(s[:4], end='', flush=True); print(s[4:])\n"
    "for c in s:\n    print(c, end='', flush=True)\n"
    "print(s[:4], end='', flush=True); print(s[4:], file=sys.stderr, flush=True)\n"
    "print(s[:5], flush=True); print(s[5:])\n"
    "print(repr(s), ascii(s), json.dumps(s), html.escape(s), urllib.parse.quote(s), shlex.quote(s), repr(repr(s)))\n"
    "print(base64.b64encode(b'operator:' + s.encode()).decode())",
    "display(HTML(f'<b>{html.escape(s)}</b>'), JSON({s: [s]}), {'key': s}, pandas.DataFrame({'a': [s], s: [1]}))",
    "os.write(1, s[:6].encode()); os.write(1, s[6:].encode()); os.system('echo ' + shlex.quote(s))",
    "from erpkit import Summary\nSummary(s, {s: s}, [s, repr(s)])",
)  # fmt: skip


def _traces(text: str) -> list[str]:
    """Return what is left of the secret in a text."""
    encoded = b64encode(SECRET.encode()).decode()[:12]
    basic = b64encode(b"r:" + SECRET.encode()).decode()[4:14]
    words = ["<ter>", "&lt;ter&gt;", "ter\\u003e", "ter%3E", "the day", '"the', "&quot;the", "%22the", encoded, basic]
    return [word for word in words if word in text]


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERP_SECRET", SECRET)


@pytest.mark.parametrize("last", ["raise ValueError(s)", "raise ValueError(repr(s) + s[:3])", "1"])
def test_a_secret_is_in_nothing_that_a_run_leaves(database: Database, tmp_path: Path, last: str) -> None:
    path = write_notebook(
        tmp_path / "leaks.ipynb", *CELLS[:-1], *([last, CELLS[-1]]), parameters='source: str = ""  # which'
    )
    done = erpkit("run", str(path), "-p", "source", "env:ERP_SECRET", "--output", str(tmp_path / "runs"), "--json")
    assert done.returncode == (3 if last == "1" else 1), done.stderr
    result = json.loads(done.stdout)
    with database.connection() as connection:
        (record,) = list_runs(connection)
    written = {
        "output": Path(result["output"]).read_text(), "report": Path(result["report"]).read_text(), "out": done.stdout,
        "err": done.stderr, "record": repr(record), "index": (tmp_path / "runs" / "index.html").read_text(),
    }  # fmt: skip
    node = json.loads(written["output"])
    for cell in node["cells"]:
        cell["source"] = ""
    written["joined"] = "".join(
        "".join(output.get("text", [])) for cell in node["cells"] for output in cell.get("outputs", [])
    )
    assert {name: _traces(text) for name, text in written.items()} == {name: [] for name in written}
    assert "***" in written["joined"]
    assert "hün" not in written["joined"].replace("\n", "")
