"""Runs of a notebook, warm and cold, against papermill itself: `python -m tests.benchmarks.bench_fleet [RUNS]`, in a scratch database.

The notebook imports pandas and runs one query on one tenant. A fleet's time is that of its command: its record, HTML reports and
index, and the start of the warm process. All is measured in turns in one run, as other work on the machine changes the times.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import papermill
import psycopg

from erpkit.config import Settings
from erpkit.database import Database
from erpkit.embedded import EmbeddedServer
from erpkit.kernels import link
from erpkit.runs.sample import drop_database
from erpkit.tenants import create_tenant
from tests.tiny import write_notebook

NAME = "bench_fleet"
_CELLS = (
    "import pandas\nimport erpkit",
    "with erpkit.open() as erp, erp.tenants[tenant].transaction() as transaction:\n"
    "    rows = transaction.connection.execute('SELECT current_schema(), 1 AS n').fetchall()\npandas.DataFrame(rows)",
)
_PARAMETERS = 'tenant: str = ""  # one tenant\nn: int = 0  # the number of the run'


def main(count: int) -> None:
    """Run `count` runs as fleets, in four parts, and papermill's loop before each of them."""
    server = EmbeddedServer(Settings.from_env().home)
    server.start()
    folder = Path(tempfile.mkdtemp(prefix="bench-fleet-"))
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {NAME}")
        try:
            with Database(server.url(NAME), NAME) as database:
                create_tenant(database, (), "acme")
            os.environ |= {
                "ERPKIT_DATABASE": server.url(NAME),
                "XDG_RUNTIME_DIR": str(folder),
                "ERPKIT_MODULES": "erpkit.sample",
            }
            os.environ.pop("ERPKIT_WARM", None)
            _measure(folder, count)
        finally:
            _stop()
            drop_database(admin, NAME)
            shutil.rmtree(folder)


def _measure(folder: Path, count: int) -> None:
    path = write_notebook(folder / "one.ipynb", *_CELLS, parameters=_PARAMETERS)
    loop: list[float] = []
    fleets: list[float] = []
    for part in range(4):
        loop += [_timed(lambda: _papermill(path)) for _ in range(4)]
        fleets.append(_timed(lambda part=part: _fleet(path, part, count // 4)))  # type: ignore[misc]
    one, rate = statistics.median(loop), sum(fleets) / (count // 4 * 4)
    print(f"papermill.execute_notebook in a loop: {one:.2f} s a run")
    print(f"fleet of {count}, two workers, start-up counted: {rate:.3f} s a run, {one / rate:.1f} times the rate")
    _measure_one(path)
    _print_parts(path)


def _measure_one(path: Path) -> None:
    """Compare one `erpkit run`, warm and cold, with papermill's command line, and a warm kernel with a cold one."""
    command = [sys.executable, "-m", "papermill", str(path), str(path.with_name("out.ipynb")), "-p", "tenant", "acme"]
    run = [
        shutil.which("erpkit") or "erpkit",
        "run",
        str(path),
        "-p",
        "tenant",
        "acme",
        "--output",
        str(path.with_name("one")),
    ]
    ways: dict[str, Callable[[], object]] = {
        "papermill's command line": lambda: _call(command),
        "erpkit run, warm": lambda: _call(run),
        "erpkit run, cold": lambda: _call(run, ERPKIT_WARM="0"),
        "a cold kernel's first cell": lambda: _first_cell(path, "python3"),
        "a warm kernel's first cell": lambda: _first_cell(path, "erpkit"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, way in ways.items():
            times[name].append(_timed(way))
    median = {name: statistics.median(all_) for name, all_ in times.items()}
    for name, seconds in median.items():
        base = median["a cold kernel's first cell" if "kernel" in name else "papermill's command line"]
        print(f"{name}: {seconds:.2f} s, {seconds / base:.2f}")


def _first_cell(path: Path, kernel: str) -> None:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name=kernel)
    manager.start_kernel(extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
    client = manager.client()
    client.start_channels(hb=False)
    client.kernel_info()
    client.get_shell_msg(timeout=60)
    client.execute("import pandas, erpkit")
    client.get_shell_msg(timeout=60)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _print_parts(path: Path) -> None:
    """Say what the time of a warm run is spent on: processor time of one fleet, by process."""
    warm = link.start()
    pid = link.ask("status", warm)["pid"]
    before = _cpu(pid)
    seconds = _timed(lambda: _fleet(path, 9, 40))
    own, children = (after - was for after, was in zip(_cpu(pid), before, strict=True))
    print(f"a fleet of 40: {seconds / 40:.3f} s a run")
    print(f"processor time a run: {own / 40:.3f} s the warm process, {children / 40:.3f} s drivers and kernels")


def _cpu(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, (int(fields[13]) + int(fields[14])) / ticks


def _papermill(path: Path) -> None:
    papermill.execute_notebook(path, path.with_name("out.ipynb"), {"tenant": "acme"}, progress_bar=False)


def _fleet(path: Path, part: int, count: int) -> None:
    sets = path.with_name(f"sets{part}.csv")
    sets.write_text("n\n" + "".join(f"{number}\n" for number in range(count)))
    _call(
        [
            shutil.which("erpkit") or "erpkit",
            "run",
            str(path),
            "--tenant",
            "acme",
            "--each",
            str(sets),
            "--output",
            str(path.with_name("runs")),
        ]
    )


def _call(command: list[str], **environ: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environ)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _stop() -> None:
    subprocess.run([shutil.which("erpkit") or "erpkit", "kernels", "stop", "--now"], check=False, capture_output=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
