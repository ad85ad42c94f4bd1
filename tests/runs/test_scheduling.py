"""Notebooks on a schedule: jobs of jupyter-scheduler, and the guide's recipes."""

import ast
import configparser
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from erpkit.database import Database
from erpkit.runs import list_runs, open_notebook, validate_parameters
from erpkit.runs.history import RunFilter
from erpkit.tenants import create_tenant
from tests.guide import read_node
from tests.tiny import write_notebook

GUIDE = "\n".join(cell.source for cell in read_node("schedules").cells if cell.cell_type == "markdown")
BIN = Path(sys.executable).parent


def _recipes(heading: str) -> list[str]:
    """The blocks of code under a heading of the guide."""
    section = GUIDE.partition(f"\n### {heading}\n")[2]
    return re.findall(r"```\w+\n(.*?)\n```", re.split(r"\n##+ ", section)[0], re.DOTALL)


def _cron() -> tuple[list[str], list[str]]:
    """The cron recipe's variables, and the words of its command."""
    *variables, line = _recipes("cron")[0].splitlines()
    return variables, shlex.split(re.sub(r"^(\S+ ){5}", "", line))


@pytest.fixture
def environment(shared_database: Database) -> dict[str, str]:
    paths = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "ERPKIT_MODULES": "erpkit.sample", "ERPKIT_DATABASE": shared_database.conninfo, "PATH": paths}


def test_the_command_in_the_crontab_runs_and_ends_with_the_notebooks_exit_code(
    shared_database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    create_tenant(shared_database, (), "acme")
    variables, words = _cron()
    assert "ERPKIT_DATABASE=service=erp" in variables
    assert words[:3] == ["erpkit", "run", "inspect_tenants"]
    command = shlex.join([*words[:-1], str(tmp_path / "runs")])
    done = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "! acme: behind on migrations" in done.stderr
    assert (tmp_path / "runs" / "index.html").exists()


def test_the_systemd_units_run_the_same_command_and_systemd_understands_them(tmp_path: Path) -> None:
    units = {}
    for name, text in zip(("service", "timer"), _recipes("systemd"), strict=True):
        units[name] = configparser.ConfigParser(interpolation=None)
        units[name].optionxform = str  # type: ignore[assignment,method-assign]
        units[name].read_string(text)
        (tmp_path / f"erpkit-inspect.{name}").write_text(f"{text}\n")
    assert shlex.split(units["service"]["Service"]["ExecStart"]) == ["/usr/bin/env", *_cron()[1]]
    assert units["service"]["Service"]["Environment"].split() == _cron()[0]
    assert units["timer"]["Timer"]["OnCalendar"] == "*-*-* 05:00:00"
    if shutil.which("systemd-analyze"):  # beside the checks above, where there is a systemd
        files = [str(tmp_path / f"erpkit-inspect.{name}") for name in units]
        done = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False)
        assert (done.returncode, [line for line in done.stderr.splitlines() if "erpkit-inspect" in line]) == (0, [])


# What the operators take, as apache-airflow-providers-papermill 3.13 and -standard 1.21 document them (and every operator: task_id).
_OPERATORS = {
    "PapermillOperator": {
        "task_id", "input_nb", "output_nb", "parameters", "kernel_name", "language_name", "kernel_conn_id", "log_output",
        "nbconvert", "nbconvert_args",
    },
    "BashOperator": {
        "task_id", "bash_command", "env", "append_env", "output_encoding", "skip_on_exit_code", "cwd", "output_processor",
    },
}  # fmt: skip


def test_the_airflow_recipe_gives_its_operators_what_they_take() -> None:
    calls = {
        node.func.id: {keyword.arg: keyword.value for keyword in node.keywords}
        for node in ast.walk(ast.parse(_recipes("Airflow")[0]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OPERATORS
    }
    assert set(calls) == set(_OPERATORS)
    for name, arguments in calls.items():
        assert set(arguments) <= _OPERATORS[name], name
    command = ast.literal_eval(calls["BashOperator"]["bash_command"])
    assert shlex.split(command) == _cron()[1]
    given = {name: ast.literal_eval(calls["PapermillOperator"][name]) for name in ("input_nb", "parameters")}
    assert validate_parameters(open_notebook(Path(given["input_nb"]).stem).parameters, given["parameters"])


def test_the_kubernetes_recipe_is_a_cron_job_with_the_same_command() -> None:
    job = yaml.safe_load(_recipes("Kubernetes")[0])
    assert (job["apiVersion"], job["kind"], job["spec"]["schedule"]) == ("batch/v1", "CronJob", "0 5 * * *")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["restartPolicy"], container["command"][:-1]) == ("Never", _cron()[1][:-1])
    assert all(isinstance(word, str) for word in container["command"])


@dataclass(frozen=True)
class Lab:
    """A JupyterLab server without a browser."""

    url: str
    folder: Path

    def call(self, path: str, data: object = None) -> Any:
        """Ask its REST API."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers={"Authorization": "token secret"})
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def job(self, notebook: str, parameters: dict[str, str]) -> str:
        """Create a job and return its id."""
        environment = self.call("scheduler/runtime_environments")[0]["name"]
        job = {"name": notebook, "input_uri": f"{notebook}.ipynb", "runtime_environment_name": environment,
               "output_formats": ["ipynb", "html"], "parameters": parameters}  # fmt: skip
        return str(self.call("scheduler/jobs", job)["job_id"])

    def wait(self, job: str) -> Any:
        """Wait until a job has ended; it is called stopped before it begins."""
        deadline = time.monotonic() + 90
        while (state := self.call(f"scheduler/jobs/{job}"))["status"] not in ("COMPLETED", "FAILED"):
            assert time.monotonic() < deadline, state
            time.sleep(0.1)
        return state

    def fetch(self, job: str) -> dict[str, Path]:
        """Have the outputs of a job brought to the server's folder; return them by their format."""
        self.call(f"scheduler/jobs/{job}/download_files")
        deadline = time.monotonic() + 60
        while True:
            paths = {file["file_format"]: file["file_path"] for file in self.call(f"scheduler/jobs/{job}")["job_files"]}
            if paths.get("ipynb") and paths.get("html"):
                return {kind: self.folder / path for kind, path in paths.items() if path}
            assert time.monotonic() < deadline, paths
            time.sleep(0.1)


@pytest.fixture
def lab(environment: dict[str, str], tmp_path: Path) -> Iterator[Lab]:
    folder = tmp_path / "work"
    folder.mkdir()
    write_notebook(folder / "probe.ipynb", "print(tenants * 2)", parameters="tenants: list[str] = []  # by name")
    write_notebook(folder / "finds.ipynb", "import erpkit\nerpkit.open().query('SELECT * FROM nosuch')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    server = subprocess.Popen(
        [BIN / "erpkit", "lab", "--folder", folder, "--no-browser", f"--port={port}", "--IdentityProvider.token=secret"],
        env={**environment, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    made = Lab(f"http://127.0.0.1:{port}", folder)
    try:
        _wait_until_up(made)
        yield made
        made.call("api/shutdown", {})
        server.wait(60)
    finally:
        server.kill()


def _wait_until_up(lab: Lab) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            lab.call("scheduler/config")
            return
        except OSError:
            assert time.monotonic() < deadline, "JupyterLab did not start"
            time.sleep(0.1)


def test_a_job_of_jupyter_scheduler_runs_as_erpkit_run_does(lab: Lab, shared_database: Database) -> None:
    good, wrong = lab.job("probe", {"tenants": "acme,bluebird"}), lab.job("probe", {"tenant": "acme"})
    assert lab.wait(good)["status"] == "COMPLETED"
    refused = lab.wait(wrong)
    assert (refused["status"], "no parameter 'tenant'; did you mean tenants?" in refused["status_message"]) == (
        "FAILED",
        True,
    )
    found = lab.wait(lab.job("finds", {}))
    assert (found["status"], found["status_message"].startswith("1 warning: ")) == ("COMPLETED", True), found
    assert "nosuch" in found["status_message"]
    files = lab.fetch(good)
    assert "['acme', 'bluebird', 'acme', 'bluebird']" in files["ipynb"].read_text()
    assert "<title>probe</title>" in files["html"].read_text()
    with shared_database.connection() as connection:
        (run,) = list_runs(connection, only=RunFilter("probe"))
    assert (run.outcome, run.tenants) == ("ok", ["acme", "bluebird"])
