"""Many runs over one warm process, and what is left of them: `python -m tests.benchmarks.soak_kernels [RUNS]`, without a database.

It ends with exit code 1 if a process, a descriptor, a folder or a socket was left, or if the memory of the warm process grew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from erpkit.kernels import link
from erpkit.runs.fleet import run_fleet
from erpkit.runs.job import Job
from erpkit.runs.run import Retry
from erpkit.runs.stopper import TimeLimits
from tests.kernels.conftest import children_of
from tests.tiny import write_notebook

_GROWTH = 4_000  # kB
_CELLS = ("import pandas, os", "os.fork() or os._exit(0)\npandas.DataFrame({'a': range(10)})", "assert n % 50")


def main(count: int) -> int:
    """Do the runs, every fiftieth of which fails, and compare what there is before and after."""
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    os.environ |= {"XDG_RUNTIME_DIR": str(folder), "ERPKIT_DATABASE": "host=127.0.0.1 port=1 connect_timeout=1"}
    os.environ.pop("ERPKIT_WARM", None)
    path = write_notebook(folder / "soak.ipynb", *_CELLS, parameters="n: int = 0")
    try:
        warm = link.start()
        _fleet(path, 20)  # what is loaded once is loaded then
        before, started = _measure(warm), time.perf_counter()
        outcomes = _fleet(path, count)
        print(f"{count} runs in {time.perf_counter() - started:.0f} s: {outcomes}")
        after = _measure(warm)
    finally:
        subprocess.run(
            [sys.executable, "-c", "from erpkit.cli import main; main()", "kernels", "stop", "--now"], check=False
        )
        shutil.rmtree(folder)
    for name, was in before.items():
        print(f"{name}: {was} before, {after[name]} after")
    allowed = {"memory of the warm process, kB": _GROWTH, "memory of this process, kB": 10 * count}
    return int(any(after[name] > was + allowed.get(name, 0) for name, was in before.items()))


def _fleet(path: Path, count: int) -> dict[str, int]:
    job = Job(str(path), {}, str(path.with_name("runs")), TimeLimits(), Retry())
    jobs = {str(n): Job(job.notebook, {"n": n}, job.place, job.limits, job.retry) for n in range(count)}
    return run_fleet(jobs, 2).facts


def _measure(warm: Path) -> dict[str, int]:
    """Count what there is, when the warm process has closed the connection of this question."""
    pid = int(link.ask("status", warm)["pid"])
    time.sleep(1)
    return {
        "processes": len(children_of(pid)),
        "descriptors of the warm process": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "descriptors of this process": len(list(Path("/proc/self/fd").iterdir())),
        "folders in /tmp": len(list(Path("/tmp").glob("erpkit-run-*"))),
        "memory of the warm process, kB": _resident(str(pid)),
        "memory of this process, kB": _resident("self"),
    }


def _resident(pid: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
