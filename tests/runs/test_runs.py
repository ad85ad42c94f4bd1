"""Runs of notebooks, for real: each outcome is told truly, by the result, in the output notebook and in the report."""

import os
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.errors import RunError, UsageError
from erpkit.runs import Retry, RunResult, TimeLimits, open_notebook, run_notebook
from erpkit.runs.entries import read_entries
from erpkit.runs.execute import mark_cells
from erpkit.runs.result import Ending
from tests.tiny import write_notebook

STUBBORN = """
import os, time
print("kernel", os.getpid())
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("not yet")
"""


def _run(path: Path, given: dict[str, Any] | None = None, **options: Any) -> RunResult:
    return run_notebook(open_notebook(str(path)), given or {}, path.parent / "runs", **options)


def _cells(result: RunResult) -> list[tuple[str, str]]:
    """The status of each code cell, and the first words of its source."""
    node = nbformat.read(result.output, as_version=4)
    return [(c.metadata.papermill.status, c.source.split("(")[0]) for c in node.cells if c.cell_type == "code"]


def _text(result: RunResult) -> str:
    node = nbformat.read(result.output, as_version=4)
    return "".join(o.get("text", "") for cell in node.cells for o in cell.get("outputs", []))


def _notes(result: RunResult) -> list[str]:
    node = nbformat.read(result.output, as_version=4)
    return [cell.source for cell in node.cells if "erpkit-note" in cell.metadata.get("tags", [])]


def test_a_cell_that_never_ends_times_out_and_is_killed_when_it_does_not_give_up(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "stuck.ipynb", "print('before')", STUBBORN, "print('after')", "print('last')")
    result = _run(path, limits=TimeLimits(cell=0.5, grace=0.5))
    assert (result.outcome, result.exit_code) == ("timed out", 124)
    assert result.verdict == "timed out: the cell took more than 0.5 s"
    assert [status for status, _ in _cells(result)] == ["completed", "timed out", "pending", "pending"]
    assert "not yet" in _text(result)
    kernel = int(_text(result).split("kernel ")[1].split()[0])
    assert not Path(f"/proc/{kernel}").exists()
    first, culprit, rest = _notes(result)
    assert "2 cells were not run" in first
    assert "This cell timed out" in culprit
    assert "The cells below were not run" in rest
    page = result.report.read_text()
    assert page.index("before") < page.index("This cell timed out") < page.index("The cells below were not run")
    assert page.count("2 cells were not run") == 1  # in the first line, which tells why


def test_a_run_that_takes_too_long_as_a_whole_times_out_in_any_thread(tmp_path: Path) -> None:
    path, results = write_notebook(tmp_path / "long.ipynb", "import time; time.sleep(60)", "print('after')"), []
    thread = threading.Thread(target=lambda: results.append(_run(path, limits=TimeLimits(run=1.5), retry=Retry(2))))
    thread.start()
    thread.join(60)
    (result,) = results
    assert (result.verdict, result.attempt) == ("timed out: the run took more than 1.5 s", 1)  # no time for another one
    assert _cells(result)[1] == ("pending", "print")


@pytest.mark.parametrize("kind", ["UsageError", "NoTenantError", "PlanChangedError"])
def test_a_cell_that_refuses_what_was_asked_ends_with_2_and_is_not_tried_again(kind: str, tmp_path: Path) -> None:
    path = write_notebook(
        tmp_path / "refuses.ipynb", f"from erpkit.errors import {kind}\nraise {kind}('there is no tenant nix')"
    )
    result = run_notebook(open_notebook(str(path)), {}, tmp_path, retry=Retry(times=2))
    assert (result.outcome, result.exit_code, result.attempt) == ("failed", 2, 1)
    assert result.error == f"{kind}: there is no tenant nix"


def test_a_kernel_that_the_system_kills_is_told_and_what_was_not_run_is_called_so(tmp_path: Path) -> None:
    path = write_notebook(
        tmp_path / "dies.ipynb", "print('before')", "import os; os.kill(os.getpid(), 9)", "print('after')"
    )
    result = _run(path)
    assert (result.outcome, result.exit_code, result.error) == (
        "killed",
        137,
        "the kernel died of SIGKILL (out of memory?)",
    )
    assert [status for status, _ in _cells(result)] == ["completed", "killed", "pending"]
    node = nbformat.read(result.output, as_version=4)
    again = [cell.source for cell in node.cells]
    mark_cells(node, Ending("killed", result.error, again.index("import os; os.kill(os.getpid(), 9)")))
    assert [cell.source for cell in node.cells] == again  # an output that is run again keeps no old notes
    (entry,) = read_entries(result.output.parent)
    assert (entry.name, entry.outcome, entry.notebook) == (result.report.name, "killed", "dies")


def test_a_cell_that_fails_is_tried_again_as_a_run_of_its_own(tmp_path: Path) -> None:
    flaky = f"from pathlib import Path\nmark = Path({str(tmp_path / 'mark')!r})\nwas = mark.exists()\nmark.touch()\nassert was, 'first'"
    path = write_notebook(tmp_path / "flaky.ipynb", flaky, "print('after')")
    result = _run(path, retry=Retry(3, pause=0.01))
    assert (result.outcome, result.attempt) == ("ok", 2)
    entries = read_entries(result.output.parent)
    assert [entry.verdict for entry in entries] == ["ok", "failed: AssertionError: first"]
    failed = RunResult("flaky", "failed", 0, result.output.parent / entries[1].name.replace(".html", ".ipynb"), Path())
    assert [status for status, _ in _cells(failed)] == ["failed", "pending"]
    assert "Failed: AssertionError: first" in _notes(failed)[0]


def test_a_run_that_may_write_is_not_tried_again_unless_asked(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "writes.ipynb", "1 / 0", parameters="dry_run: bool = True  # show only")
    with pytest.raises(UsageError, match="this run of writes may write"):
        _run(path, {"dry_run": False}, retry=Retry(1))
    assert not (tmp_path / "runs").exists()


def test_a_cell_that_may_raise_and_one_that_ends_the_notebook_are_no_failures(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "ends.ipynb", "1 / 0", "import sys; sys.exit(0)", "print('after')")
    node = nbformat.read(path, as_version=4)
    node.cells[1].metadata["tags"] = ["raises-exception"]
    nbformat.write(node, path)
    result = _run(path)
    assert (result.outcome, result.exit_code) == ("ok", 0)
    assert [status for status, _ in _cells(result)] == ["completed", "completed", "pending"]


def test_a_reference_is_resolved_inside_the_notebook_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "host=db.example user=me password=hunter22"
    monkeypatch.setenv("ERP_DSN", secret)
    leaks = (
        "import erpkit\nfrom IPython.display import HTML, display\n"
        "resolved = erpkit.Settings.from_env().with_database(database).database\n"
        "print(len(resolved), resolved)\ndisplay(HTML(resolved))\nraise ValueError(resolved)"
    )
    path = write_notebook(tmp_path / "leaks.ipynb", leaks, parameters='database: str = ""  # which')
    result = _run(path, {"database": "env:ERP_DSN"})
    assert (result.outcome, result.error) == ("failed", "ValueError: ***")
    assert f"{len(secret)} ***" in _text(result)
    for file in (result.output, result.report):
        assert "env:ERP_DSN" in file.read_text()
        assert "hunter22" not in file.read_text()
    assert "hunter22" not in repr(result)


def test_a_kernel_that_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "julia.ipynb", "1", kernel="julia-1.9")
    with pytest.raises(
        UsageError, match="no Jupyter kernel 'julia-1.9', which julia.ipynb asks for: use --kernel with one of"
    ):
        _run(path)
    assert not (tmp_path / "runs").exists()


def test_what_breaks_beside_the_cells_is_one_line(tmp_path: Path) -> None:
    removes = "import shutil\nshutil.rmtree('runs')"  # the folder of the outputs goes away while it runs
    path = write_notebook(tmp_path / "removes.ipynb", removes)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(RunError, match="the run of removes was aborted: FileNotFoundError"):
            _run(path)
    finally:
        os.chdir(before)
