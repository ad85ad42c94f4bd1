"""Notebooks that papermill runs are run by erpkit run as well, with the values given as papermill takes them."""

import base64
import json
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.runs import RunResult, list_runs, open_notebook, run_notebook
from erpkit.runs.history import RunFilter
from tests.command import erpkit, refused
from tests.tiny import write_notebook

ODD = """%load_ext autoreload
from pathlib import Path
from datetime import date
root = Path('x')
seconds = 60 * 60
later = seconds * 2
day: date = date(2026, 1, 1)
n: int = 1
"""


@pytest.fixture
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(path: Path, given: dict[str, Any] | None = None, **options: Any) -> RunResult:
    return run_notebook(open_notebook(str(path)), given or {}, path.parent / "runs", **options)


def _printed(result: RunResult) -> str:
    node = nbformat.read(result.output, as_version=4)
    return "".join(o.get("text", "") for cell in node.cells for o in cell.get("outputs", []))


def test_defaults_that_are_no_literals_run_and_a_date_that_is_given_arrives_as_one(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "odd.ipynb", "print(root, later, repr(day))", parameters=ODD)
    assert _printed(_run(path)) == "x 7200 datetime.date(2026, 1, 1)\n"
    given = _run(path, {"day": "2026-02-03"})
    assert _printed(given) == "x 7200 datetime.date(2026, 2, 3)\n"
    recorded = nbformat.read(given.output, as_version=4).metadata.papermill
    assert (recorded.parameters, recorded.input_path) == ({"day": "2026-02-03"}, str(path))


def test_a_second_parameters_cell_runs_as_papermill_runs_it(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "two.ipynb", "b: int = 2", "print(a, b)", parameters="a: int = 1\nb: int = 1")
    node = nbformat.read(path, as_version=4)
    node.cells[2].metadata["tags"] = ["parameters"]
    nbformat.write(node, path)
    assert _printed(_run(path, {"a": "7"})) == "7 2\n"
    with pytest.raises(UsageError, match="parameter b cannot be set: a second cell"):
        _run(path, {"b": "7"})


def test_a_required_parameter_is_asked_for_before_anything_starts(environment: None, tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "required.ipynb", "assert x == 3", parameters="x: int  # must be given")
    refused(erpkit("run", str(path), "--output", str(tmp_path / "runs")), 2, "parameter x must be given: -p x int")
    assert not (tmp_path / "runs").exists()
    assert erpkit("run", str(path), "-p", "x", "3", "--output", str(tmp_path / "runs")).returncode == 0
    assert "x: int  (must be given)\n      must be given" in erpkit("run", str(path), "--help").stdout


def test_parameters_come_from_files_and_texts_of_yaml_and_the_kernel_works_where_it_is_told(
    environment: None, tmp_path: Path
) -> None:
    cell = "import os, json\nprint(json.dumps([a, b, c, d, str(day), os.getcwd()]))"
    declared = (
        "from datetime import date\na: int = 0\nb: int = 0\nc: int = 0\nd: list[str] = []\nday: date = date(2026, 1, 1)"
    )
    path = write_notebook(tmp_path / "given.ipynb", cell, parameters=declared)
    file, folder = tmp_path / "some.yaml", tmp_path / "else where"
    file.write_text("\ufeffa: 1\nb: 1\nc: 1\nday: 2026-02-03\n")
    folder.mkdir()
    coded = base64.b64encode(b"a: 9\nd: [x, y]").decode()
    done = erpkit(
        "run", str(path), "-b", coded, "-f", str(file), "-y", "{b: 2, c: 2}", "-p", "c", "3", "--cwd", str(folder),
        "--output", str(tmp_path / "runs"), "--json",
    )  # fmt: skip
    node = nbformat.read(json.loads(done.stdout)["output"], as_version=4)
    assert json.loads(node.cells[-1].outputs[0].text) == [1, 2, 3, ["x", "y"], "2026-02-03", str(folder)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-f", "nowhere.yaml"], "-f nowhere.yaml cannot be read: No such file"),
        (["-y", "[1, 2]"], "-y holds no parameters: write NAME: VALUE"),
        (["-y", "{a: [}"], "-y is not YAML"),
        (["-b", "???"], "-b is not base64"),
        (["-y", "b: 1"], "there is no parameter 'b'"),
        (["-y", "a: ten"], "parameter a = 'ten' is not of type int"),
        (["--cwd", "nowhere"], "there is no folder nowhere to run in"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    arguments: list[str], said: str, environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_notebook(tmp_path / "probe.ipynb", "1", parameters="a: int = 0")
    refused(erpkit("run", str(path), *arguments), 2, said)


@pytest.mark.parametrize("minor", [4, 5])
def test_a_notebook_of_an_older_version_with_a_byte_order_mark_and_without_ids_runs_without_a_warning(
    minor: int, tmp_path: Path
) -> None:
    path = write_notebook(tmp_path / "old.ipynb", "print(n)", parameters="n: int = 1")
    raw = json.loads(path.read_text()) | {"nbformat_minor": minor, "metadata": {}}
    for cell in raw["cells"]:
        del cell["id"]
    path.write_text("\ufeff" + json.dumps(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _printed(_run(path, {"n": "2"})) == "2\n"


def test_tags_mean_what_they_mean_to_papermill_and_nbconvert(tmp_path: Path) -> None:
    cells = ["print('shown')", "print('not ' + 'run')", "print('not ' + 'in the report')", "1 / 0", "print('after')"]
    path = write_notebook(tmp_path / "tags.ipynb", *cells)
    node = nbformat.read(path, as_version=4)
    for cell, tag in zip(node.cells[2:5], ["skip-execution", "remove-cell", "raises-exception"], strict=True):
        cell.metadata["tags"] = [tag, "mine"]
    nbformat.write(node, path)
    result = _run(path)
    assert result.outcome == "ok"
    assert _printed(result) == "shown\nnot in the report\nafter\n"
    kept = [cell.metadata.tags for cell in nbformat.read(result.output, as_version=4).cells[2:5]]
    assert kept == [["skip-execution", "mine"], ["remove-cell", "mine"], ["raises-exception", "mine"]]
    report = result.report.read_text()
    assert ("shown" in report, "not in the report" in report, "ZeroDivisionError" in report) == (True, False, True)


def test_a_time_without_a_zone_is_refused_before_a_kernel_starts(environment: None, tmp_path: Path) -> None:
    arguments = ["run", "replay_events", "-p", "since", "2026-01-31T08:00", "--output", str(tmp_path / "runs")]
    refused(erpkit(*arguments), 2, "parameter since = 2026-01-31T08:00 has no time zone: add one, +00:00 for UTC")
    assert not (tmp_path / "runs").exists()


def test_what_json_and_postgresql_cannot_hold_makes_no_finished_run_lost(
    environment: None, database: Database, tmp_path: Path
) -> None:
    cell = "raise ValueError(f'nul \\x00 and half \\ud800 of {x}')"
    path = write_notebook(tmp_path / "nul.ipynb", cell, parameters="x: float = 0.0\nname: str = ''")
    done = erpkit(
        "run", str(path), "-p", "x", "nan", "-y", '{name: "a\\0b"}', "--output", str(tmp_path / "runs"), "--json"
    )
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["problems"]) == (1, "failed", [])
    with database.connection() as connection:
        (run,) = list_runs(connection, only=RunFilter("nul"))
    assert (run.outcome, run.error) == ("failed", r"ValueError: nul \x00 and half \ud800 of nan")
    assert run.parameters == {"x": "nan", "name": r"a\x00b"}
    json.loads(Path(told["output"]).read_text(), parse_constant=pytest.fail)
