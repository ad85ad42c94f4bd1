"""erpkit run as a scheduler meets it: one run a tenant, signals, and one clear line for every mistake."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import papermill
import pytest

from erpkit.cli import main
from erpkit.database import Database
from erpkit.runs import list_runs
from erpkit.tenants import create_tenant, set_status
from tests.command import erpkit, refused, rows_of
from tests.tiny import write_notebook


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _wait(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def _waits(folder: Path, mark: Path, parameters: str | None = None) -> Path:
    """A notebook that says who its kernel is, and then waits."""
    cell = (
        f"import os, time\nfrom pathlib import Path\nPath({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    return write_notebook(folder / "waits.ipynb", cell, "print('after')", parameters=parameters)


def _signalled(number: signal.Signals, mark: Path, *arguments: str) -> tuple[int, str, str]:
    """Start `erpkit run`, send it a signal when the kernel waits, and return its exit code and what it printed."""
    command = [sys.executable, "-c", "from erpkit.cli import main; main()", "run", *arguments]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _wait(lambda: mark.exists() and mark.read_text())
    run.send_signal(number)
    out, err = run.communicate(timeout=60)
    return run.returncode, out, err


def test_ctrl_c_ends_the_kernel_with_the_run_and_the_record_says_interrupted(
    database: Database, tmp_path: Path
) -> None:
    mark = tmp_path / "kernel"
    path = _waits(tmp_path, mark)
    code, out, err = _signalled(signal.SIGINT, mark, str(path), "--output", str(tmp_path / "runs"))
    assert (code, "Traceback" in err) == (130, False)
    assert out.split("\t")[1:3] == ["waits", "interrupted: by SIGINT"]
    assert not Path(f"/proc/{mark.read_text()}").exists()
    with database.connection() as connection:
        (record,) = list_runs(connection)
    assert (record.outcome, record.exit_code, record.error) == ("interrupted", 130, "by SIGINT")
    node = json.loads(Path(str(record.output)).read_text())
    statuses = [cell["metadata"]["papermill"]["status"] for cell in node["cells"] if cell["cell_type"] == "code"]
    assert statuses == ["interrupted", "pending"]


def test_sigterm_to_a_fleet_ends_the_runs_under_way_and_begins_no_other(database: Database, tmp_path: Path) -> None:
    for slug in ("acme", "bluebird"):
        create_tenant(database, (), slug)
    mark = tmp_path / "kernel"
    path = _waits(tmp_path, mark, 'tenant: str = ""  # one tenant')
    arguments = (str(path), "--each-tenant", "--jobs", "1", "--output", str(tmp_path / "runs"), "--json")
    code, out, _ = _signalled(signal.SIGTERM, mark, *arguments)
    assert code == 130
    assert [(row["tenant"], row["outcome"], row["error"]) for row in json.loads(out)] == [
        ("acme", "interrupted", "by SIGTERM"), ("bluebird", "interrupted", "not begun"),
    ]  # fmt: skip
    assert not Path(f"/proc/{mark.read_text()}").exists()
    with database.connection() as connection:
        (record,) = list_runs(connection)
    assert (record.outcome, record.tenants) == ("interrupted", ["acme"])
    assert not Path(f"/proc/{record.pid}").exists()


def test_each_tenant_gets_a_run_of_its_own_and_the_worst_is_the_exit_code(database: Database, tmp_path: Path) -> None:
    for slug in ("acme", "bluebird", "cobalt", "delta"):
        create_tenant(database, (), slug)
    with database.connection() as connection:
        set_status(connection, "delta", "suspended")
    cell = (
        "import os\nfrom erpkit import Summary\nassert tenant != 'bluebird', 'no such books'\n"
        "if tenant == 'cobalt':\n    os.kill(os.getppid(), 9)\n"  # the process of the run
        "Summary(tenant, {'kernel': os.getpid()}, [f'{tenant}: to look at'] if loud else [])"
    )
    parameters = 'tenant: str = ""  # one tenant\nloud: bool = False  # find something'
    path = write_notebook(tmp_path / "probe.ipynb", cell, parameters=parameters)
    run = ("run", str(path), "--each-tenant", "--output", str(tmp_path / "runs"), "-p", "loud", "true")
    done = erpkit(*run)
    assert done.returncode == 137, done.stderr
    assert "skipped delta: suspended" in done.stderr
    for text in (
        "acme\t1 warning\t",
        "bluebird\tfailed: AssertionError: no such books\t",
        "cobalt\tthe process of the run was killed by SIGKILL\t",
    ):
        assert text in done.stdout
    assert {row[0] for row in rows_of(done)} == {"acme", "bluebird", "cobalt"}
    assert "! acme: to look at" in done.stderr.splitlines()
    with database.connection() as connection:
        records = {record.tenants[0]: record for record in list_runs(connection)}
    assert {slug: record.exit_code for slug, record in records.items()} == {"acme": 3, "bluebird": 1, "cobalt": None}
    assert len({record.pid for record in records.values()}) == 2  # a process does one run after another
    names = sorted(path.name.split("-2")[0] for path in (tmp_path / "runs").glob("*.html"))
    assert names == ["fleet-probe", "index.html", "probe-acme", "probe-bluebird"]
    refused(erpkit(*run, "--tenant", "acne"), 2, "no tenant 'acne'; did you mean acme?")


def test_what_is_wrong_with_the_notebook_or_the_options_is_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = str(write_notebook(tmp_path / "bare.ipynb", "1"))
    probe = str(write_notebook(tmp_path / "probe.ipynb", "1", parameters='n: int = 1  # a number\nconfirm: str = ""'))
    (tmp_path / "file").write_text("")

    def refused(*words: str) -> str:
        """Run the command in this process, and return its one line on standard error."""
        monkeypatch.setattr(sys, "argv", ["erpkit", "run", "--output", str(tmp_path / "runs"), *words])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = [
            line
            for line in capsys.readouterr().err.splitlines()
            if line and not line.startswith(("Usage:", "Try ", "target: "))
        ]
        assert (ended.value.code, len(lines)) == (2, 1), lines
        return lines[0]

    assert "there is no parameter 'n': the notebook has none" in refused(bare, "-p", "n", "1")
    assert "parameter n = 'one' is not of type int" in refused(probe, "-p", "n", "one")
    assert "'flase' is not the id of a plan" in refused(probe, "-p", "confirm", "flase")
    assert "parameter n is given twice" in refused(probe, "-p", "n", "1", "-p", "n", "2")
    assert "probe.ipynb has no parameter for tenants" in refused(probe, "--tenant", "acme")
    assert "there is no Jupyter kernel 'julia-1.9': use --kernel" in refused(probe, "--kernel", "julia-1.9")
    assert "'--timeout'" in refused(probe, "--timeout", "0")
    assert "cannot be written: Not a directory" in refused(probe, "--output", str(tmp_path / "file" / "runs"))
    assert "papermill cannot write to ftp://" in refused(probe, "--output", "ftp://host/runs")
    assert "--retry-writes" in refused(probe, "-p", "confirm", "drop-0123456789", "--retries", "1")
    assert "name tenants by --tenant" in refused("inspect_tenants", "--each-tenant", "-p", "tenants", "acme")
    monkeypatch.setenv("ERPKIT_NOTIFY", "env:GONE")
    assert "ERPKIT_NOTIFY names the variable GONE" in refused(probe)
    assert not (tmp_path / "runs").exists()


def test_a_name_that_nobody_declared_is_refused_inside_a_notebook_that_papermill_itself_runs(tmp_path: Path) -> None:
    guard = "import erpkit\nerpkit.check_parameters(globals())"
    path = write_notebook(tmp_path / "probe.ipynb", guard, parameters="dry_run: bool = True  # show only")
    with pytest.raises(papermill.PapermillExecutionError, match=r"no parameter 'dryrun'; did you mean dry_run\?"):
        papermill.execute_notebook(path, tmp_path / "out.ipynb", {"dryrun": "false"}, progress_bar=False)
