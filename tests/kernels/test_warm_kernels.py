"""Kernels that are forked from the warm process are what new ones are, by whatever program they are started."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from erpkit.kernels import link
from erpkit.kernels.place import NotRunningError, NoWarmKernelError, find_socket
from erpkit.kernels.warm import _LOOK
from tests.kernels.conftest import PATIENCE, children_of, is_alive, wait_until
from tests.tiny import write_notebook

SHOWS = """
import os, random, numpy, pandas, matplotlib.pyplot as plt
print(os.getppid(), random.random(), numpy.random.rand())
plt.plot([1, 2]); plt.show()
pandas.DataFrame({"a": [1]})
"""


@contextmanager
def kernel(name: str = "erpkit", **options: Any) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(**options)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def said(client: BlockingKernelClient, code: str) -> str:
    """Return what a cell prints."""
    printed: list[str] = []

    def hear(message: Any) -> None:
        printed.append(message["content"].get("text", "") + message["content"].get("evalue", ""))

    client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
    return "".join(printed).strip()


def _outputs(path: Path) -> list[Any]:
    return [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]


def test_stock_papermill_gets_a_kernel_that_was_forked_and_shows_tables_and_pictures(
    warm: Path, warm_pid: int, tmp_path: Path
) -> None:
    source = write_notebook(tmp_path / "shows.ipynb", SHOWS)
    printed = []
    for out in (tmp_path / "one.ipynb", tmp_path / "two.ipynb"):
        papermill.execute_notebook(source, out, kernel_name="erpkit", progress_bar=False)
        stream, picture, table = _outputs(out)
        assert int(stream.text.split()[0]) == warm_pid
        assert "image/png" in picture.data
        assert "text/html" in table.data
        printed += stream.text.split()[1:3]
    assert len(set(printed)) == 4  # random numbers are each run's own


def test_nbval_and_nbconvert_use_it_by_its_name(warm: Path, tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "checked.ipynb", "1 + 1", kernel="erpkit")
    served = link.ask("status", warm)["served"]
    nbval = [
        "pytest",
        "-q",
        "-n0",
        "--nbval-lax",
        "--nbval-kernel-name=erpkit",
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
    ]
    nbconvert = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--output", "out.ipynb"]
    for number, command in enumerate((nbval, nbconvert), served + 1):
        done = subprocess.run([sys.executable, "-m", *command, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert link.ask("status", warm)["served"] == number


def test_a_kernel_has_its_clients_environment_folder_umask_and_limits_and_nothing_of_the_one_before(
    warm: Path, tmp_path: Path
) -> None:
    changes = (
        "import os, builtins, tempfile, sys\nos.environ['MINE'] = '1'; builtins.mine = 1; os.chdir('/'); tempfile.tempdir = '/'; "
        "sys.path.append('/x')"
    )
    looks = (
        "import os, builtins, resource, sys, tempfile\nprint(os.environ.get('MINE'), hasattr(builtins, 'mine'), os.getcwd(), "
        "oct(os.umask(0)), tempfile.gettempdir(), '/x' in sys.path, os.environ['GIVEN'], "
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0], __name__, os.getpid() == os.getsid(0))"
    )
    mask, limits = os.umask(0o027), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    try:
        with kernel() as (_, client):
            said(client, changes)
        with kernel(env=os.environ | {"GIVEN": "grüße", "TMPDIR": str(tmp_path)}, cwd=str(tmp_path)) as (_, client):
            shown = said(client, looks).split()
    finally:
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    folder = str(tmp_path)
    assert shown == ["None", "False", folder, "0o27", folder, "False", "grüße", str(limits[0] - 1), "__main__", "True"]


def test_a_kernel_has_the_priority_the_processors_and_the_ignored_signals_of_its_client(
    warm: Path, tmp_path: Path
) -> None:
    looks = (
        "import os, signal\nprint(os.getppid(), os.nice(0), sorted(os.sched_getaffinity(0)), "
        "signal.getsignal(signal.SIGHUP).name)"
    )
    one, output = min(os.sched_getaffinity(0)), tmp_path / "output.ipynb"

    def differ() -> None:
        os.nice(3)
        os.sched_setaffinity(0, [one])
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    path = write_notebook(tmp_path / "looks.ipynb", looks)
    command = [sys.executable, "-m", "papermill", "-k", "erpkit", str(path), str(output)]
    nice = os.nice(0) + 3
    subprocess.run(command, preexec_fn=differ, check=True, capture_output=True, timeout=PATIENCE)
    assert _outputs(output)[0].text.split(maxsplit=1)[1].strip() == f"{nice} [{one}] SIG_IGN"


def test_the_first_kernel_does_not_remove_the_temporary_folders_of_the_warm_process(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its own folder cannot be written, matplotlib makes one for the process and removes it at the exit."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    link.start()
    folders = set(tmp_path.glob("matplotlib-*"))
    for _ in range(2):
        with kernel() as (_, client):
            said(client, "1")
            client.shutdown()
    assert folders
    assert folders <= set(tmp_path.glob("matplotlib-*"))


@pytest.mark.parametrize(("code", "ends"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6)])
def test_the_exit_code_of_a_kernel_is_true(warm: Path, code: str, ends: int) -> None:
    with kernel() as (manager, client):
        provisioner: Any = manager.provisioner
        process = provisioner.process
        client.execute(f"import os; {code}")
        assert process.wait(PATIENCE) == ends
        assert not manager.is_alive()


def test_an_interrupt_ends_the_cell_and_not_the_kernel(warm: Path, tmp_path: Path) -> None:
    with kernel() as (manager, client):
        mark = tmp_path / "mark"
        asked = client.execute(f"import time; open({str(mark)!r}, 'w').close(); time.sleep(600)")
        wait_until(mark.exists)
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=PATIENCE))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        wait_until(lambda: said(client, "print(1 + 1)") == "2")  # a kernel drops for a moment what came after an error


def test_what_a_kernel_started_ends_with_it(warm: Path) -> None:
    with kernel() as (_, client):
        child = int(said(client, "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid)"))
        forked = int(said(client, "import os, time\npid = os.fork()\nif not pid: time.sleep(600)\nprint(pid)"))
        assert is_alive(child)
    wait_until(lambda: not is_alive(child) and not is_alive(forked))


def test_a_kernel_that_runs_out_of_memory_fails_alone(warm: Path) -> None:
    with kernel() as (_, client), kernel() as (_, other):
        said(client, "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))")
        assert "MemoryError" in str(
            said(client, "try:\n    bytearray(10**10)\nexcept MemoryError as e:\n    print(repr(e))")
        )
        assert said(other, "print(len(bytearray(10**6)))") == "1000000"


def test_a_kernel_ends_with_its_driver_and_leaves_no_file(warm: Path, warm_pid: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    cell = (
        f"from pathlib import Path\nimport os, time\nPath({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    source = write_notebook(tmp_path / "waits.ipynb", cell)
    code = f"import papermill; papermill.execute_notebook({str(source)!r}, 'out.ipynb', kernel_name='erpkit', progress_bar=False)"
    env = os.environ | {"TMPDIR": str(tmp_path)}
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL, env=env)
    wait_until(lambda: mark.exists() and mark.read_text())
    assert list(tmp_path.glob("tmp*.json"))
    driver.kill()
    driver.wait()
    wait_until(lambda: not is_alive(int(mark.read_text())))
    wait_until(lambda: not list(tmp_path.glob("tmp*.json")))


def test_nothing_keeps_a_kernel_from_ending_at_once_with_its_driver(
    warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends when its driver's connection does, and not at the warm process's next look, nor after a client that says nothing."""
    mark = tmp_path / "mark"
    code = (
        "from tests.kernels.test_warm_kernels import kernel, said\nimport time\nwith kernel() as (_, client):\n"
        f"    pid = said(client, 'import os; print(os.getpid())')\n    open({str(mark)!r}, 'w').write(f'{{pid}} ')\n    time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: mark.exists() and mark.read_text().endswith(" "))
    ended = os.pidfd_open(int(mark.read_text()))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(str(warm))
            began = time.monotonic()
            driver.kill()
            ready, _, _ = select.select([ended], [], [], _LOOK / 2)
            seconds = time.monotonic() - began
            assert ready == [ended]
            assert select.select([silent], [], [], 0)[0] == []  # the warm process has not waited for it
    finally:
        os.close(ended)
        driver.wait()
    with capsys.disabled():
        print(f"\na kernel ended {seconds:.3f} s after its driver was killed")


def test_the_system_kills_a_forked_kernel_when_the_warm_process_dies(warm: Path) -> None:
    asks = "import ctypes, signal; found = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(found)); print(found.value)"
    with kernel() as (_, client):
        assert int(said(client, asks)) == signal.SIGKILL


def test_completion_and_the_debugger_work_in_a_forked_kernel(warm: Path) -> None:
    with kernel() as (_, client):
        said(client, "import pandas\nframe = pandas.DataFrame({'a': [1]})")
        completed = client.complete("frame.drop_dupl", reply=True, timeout=PATIENCE)
        assert completed["content"]["matches"] in (["drop_duplicates"], ["frame.drop_duplicates"])
        assert "DataFrame" in client.inspect("frame", reply=True, timeout=PATIENCE)["content"]["data"]["text/plain"]
        code = "def double(x):\n    y = x * 2\n    return y\nprint(double(21))"
        assert _debug(client, "debugInfo")["success"]
        assert _debug(
            client,
            "initialize",
            clientID="t",
            adapterID="",
            pathFormat="path",
            linesStartAt1=True,
            columnsStartAt1=True,
        )["success"]
        assert _debug(client, "attach")["success"]
        path = _debug(client, "dumpCell", code=code)["body"]["sourcePath"]
        set_ = _debug(client, "setBreakpoints", source={"path": path}, breakpoints=[{"line": 3}], sourceModified=False)
        assert set_["body"]["breakpoints"][0]["verified"]
        assert _debug(client, "configurationDone")["success"]
        client.execute(code)
        thread = _stopped(client)
        frames = _debug(client, "stackTrace", threadId=thread)["body"]["stackFrames"]
        assert (frames[0]["name"], frames[0]["line"]) == ("double", 3)
        assert _debug(client, "evaluate", expression="y", frameId=frames[0]["id"])["body"]["result"] == "42"
        assert _debug(client, "continue", threadId=thread)["success"]
        assert _debug(client, "disconnect", restart=False, terminateDebuggee=True)["success"]


_seq = iter(range(1, 1000))


def _debug(client: BlockingKernelClient, command: str, **arguments: Any) -> dict[str, Any]:
    content = {"type": "request", "seq": next(_seq), "command": command, "arguments": arguments}
    message = client.session.msg("debug_request", content)
    client.control_channel.send(message)
    while (reply := client.get_control_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != message["header"][
        "msg_id"
    ]:
        pass
    return dict(reply["content"])


def _stopped(client: BlockingKernelClient) -> int:
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["msg_type"] == "debug_event" and message["content"]["event"] == "stopped":
            return int(message["content"]["body"]["threadId"])


def test_many_kernels_leave_no_process_no_descriptor_and_no_memory(warm: Path, warm_pid: int, tmp_path: Path) -> None:
    def measure() -> tuple[int, set[int], int]:
        status = Path(f"/proc/{warm_pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        return len(list(Path(f"/proc/{warm_pid}/fd").iterdir())), children_of(warm_pid), resident

    def run() -> None:
        process = link.Link(warm, "call", ["gc:disable"], streams=(null, null, null))
        assert process.wait(PATIENCE) == 0

    null = os.open(os.devnull, os.O_RDWR)
    try:
        for _ in range(5):
            run()
        descriptors, children, resident = measure()
        for _ in range(60):
            run()
        # Not more than before: what was measured first may have held the connection that was just closing.
        wait_until(lambda: measure()[0] <= descriptors and measure()[1] <= children)
        assert measure()[2] < resident + 4_000
    finally:
        os.close(null)


def test_the_socket_is_the_users_alone(warm: Path) -> None:
    assert oct(warm.stat().st_mode)[-3:] == "600"
    assert oct(warm.parent.stat().st_mode)[-3:] == "700"
    warm.parent.chmod(0o755)
    try:
        with pytest.raises(NoWarmKernelError, match="is not a folder that only this user may enter"):
            find_socket(os.environ)
    finally:
        warm.parent.chmod(0o700)


def test_a_kernel_is_a_cold_one_where_there_is_no_warm_process_and_one_is_started_for_the_next(alone: Path) -> None:
    with kernel() as (manager, client):
        provisioner: Any = manager.provisioner
        assert provisioner.cold == "no warm process runs"
        assert int(said(client, "import os; print(os.getppid())")) == os.getpid()
    warm = link.start()  # waits for the one that is starting
    with kernel() as (manager, client):
        assert int(said(client, "import os; print(os.getppid())")) == link.ask("status", warm)["pid"]


def test_nothing_is_forked_where_it_is_switched_off(warm: Path) -> None:
    with kernel(env=os.environ | {"ERPKIT_WARM": "0"}) as (_, client):
        assert int(said(client, "import os; print(os.getppid())")) == os.getpid()
    with pytest.raises(NotRunningError, match="ERPKIT_WARM switches it off"):
        link.start({"ERPKIT_WARM": "0"})


def test_a_folder_with_a_module_of_the_same_name_gets_a_cold_kernel_that_imports_it(warm: Path, tmp_path: Path) -> None:
    (tmp_path / "tenacity.py").write_text("MINE = 'of the folder'")
    with kernel(cwd=str(tmp_path)) as (manager, client):
        provisioner: Any = manager.provisioner
        assert "has a module tenacity of its own" in provisioner.cold
        assert said(client, "import tenacity; print(tenacity.MINE)") == "of the folder"


def test_a_library_that_is_upgraded_is_not_served_from_memory(
    alone: Path, light: str, upgradable: Callable[[], None]
) -> None:
    first = link.start(preload=light)
    old = link.ask("status", first)["pid"]
    with kernel() as (_, client):
        shows = "import tenacity, os; print(getattr(tenacity, 'NEW', 0), os.getppid())"
        assert said(client, shows) == f"0 {old}"
        upgradable()
        with kernel() as (manager, other):
            provisioner: Any = manager.provisioner
            assert "its code has changed on the disk" in provisioner.cold
            assert said(other, shows).split()[0] == "1"
        assert said(client, shows) == f"0 {old}"  # what runs goes on
        new = link.ask("status", link.start(preload=light))["pid"]
        assert new != old
        with kernel() as (_, other):
            assert said(other, shows) == f"1 {new}"
    wait_until(lambda: not is_alive(old))


def test_two_environments_have_a_warm_process_each(alone: Path, light: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        pids.append(link.ask("status", link.start(preload=light))["pid"])
    for seed, pid in zip(("1", "2"), pids, strict=True):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        cold = subprocess.check_output([sys.executable, "-c", "print(hash('a'))"], text=True).strip()
        with kernel() as (_, client):
            assert said(client, "import os; print(hash('a'), os.getppid())") == f"{cold} {pid}"


def test_it_ends_when_it_is_idle_or_its_socket_is_gone(
    alone: Path, light: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_WARM_IDLE", "0.5")
    path = link.start(preload=light)
    wait_until(lambda: not path.exists())
    monkeypatch.delenv("ERPKIT_WARM_IDLE")
    pid = link.ask("status", path := link.start(preload=light))["pid"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(path))
        path.unlink()  # as the system does with the whole folder at logout
    wait_until(lambda: not is_alive(pid))  # it looks after each event, such as this client's end


def test_a_kernel_ends_with_the_warm_process_that_is_killed(alone: Path, light: str) -> None:
    path = link.start(preload=light)
    pid = link.ask("status", path)["pid"]
    with kernel() as (manager, client):
        provisioner: Any = manager.provisioner
        process = provisioner.process
        own = int(said(client, "import os; print(os.getpid())"))
        os.kill(pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -9
        wait_until(lambda: not is_alive(own))
    with pytest.raises(NotRunningError, match="no warm process runs"):  # so that the next one is a cold one
        link.ask("ping", path)
