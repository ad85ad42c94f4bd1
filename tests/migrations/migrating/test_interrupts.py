"""Ctrl-C and SIGTERM: every tenant is left at a whole version."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from erpkit.database import Database, Tenant
from erpkit.migrations import TenantResult, plan_up, read_applied, read_history, read_migrations, run_plan
from erpkit.modules import Module
from erpkit.tenants import create_tenant, ensure_template
from tests.migrations.fleet import (
    CONCURRENTLY,
    MODULE,
    SLEEPS,
    activity,
    errors,
    find_halves,
    in_background,
    migrate,
    migration,
    receive,
    session,
    start_runner,
    states,
    steps,
    versions,
    wait_until,
    write_module,
)  # fmt: skip


def interrupt(process: BaseProcess, *numbers: int) -> None:
    for number in numbers:
        os.kill(process.pid or 0, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_lets_the_migrations_in_hand_end_and_names_who_is_left(
    database: Database, fleet: list[Tenant], number: signal.Signals
) -> None:
    process, pipe = start_runner(database.conninfo, fleet, steps(2, pause=0.3))
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, number)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert process.exitcode == 0
    assert set(errors(run).values()) <= {
        f"stopped before stock/0000{n}_step, at a whole version: interrupted" for n in (1, 2)
    }
    assert run.done_count >= 3
    assert set(run.not_started.values()) == {"interrupted"}
    assert find_halves(database, fleet) == []
    assert migrate(database, fleet, steps(2)).is_complete


def test_what_took_long_elsewhere_is_sent_one_by_one_so_that_an_interrupt_need_not_wait_for_all(
    database: Database, fleet: list[Tenant]
) -> None:
    process, pipe = start_runner(database.conninfo, fleet[:3], steps(2, pause=0.3), workers=1)
    with pipe, session(database) as watch:
        wait_until(lambda: [entry.tenant for entry in read_history(watch)] == ["t01"] * 2)
        wait_until(lambda: activity(watch, SLEEPS) == 1)
        interrupt(process, signal.SIGINT)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert errors(run) == {"t02": "stopped before stock/00002_step, at a whole version: interrupted"}
    assert dict(run.not_started) == {"t03": "interrupted"}
    assert versions(database, fleet[:3]) == {"t01": (1, 2), "t02": (1,), "t03": ()}


def test_a_second_interrupt_cancels_the_migrations_in_hand(database: Database, fleet: list[Tenant]) -> None:
    process, pipe = start_runner(database.conninfo, fleet, steps(1, pause=600))
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, signal.SIGINT, signal.SIGTERM)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert len(errors(run)) == 3
    assert all("canceling statement due to user request" in error for error in errors(run).values())
    assert set(versions(database, fleet).values()) == {()}
    assert find_halves(database, fleet) == []


def test_a_second_interrupt_cancels_a_migration_without_a_transaction_too(
    database: Database, fleet: list[Tenant]
) -> None:
    slow = migration(1, "CREATE TABLE a (id int);\nSELECT pg_sleep(600);", head=CONCURRENTLY)
    process, pipe = start_runner(database.conninfo, fleet, [slow])
    with pipe, session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        interrupt(process, signal.SIGINT, signal.SIGTERM)
        assert receive(pipe) == "planned"
        run = receive(pipe)
        process.join()
    assert all("stopped half way: statement 2 of 2 failed: canceling" in error for error in errors(run).values())
    dirty = {slug for slug, state in states(database, fleet, [slow]).items() if state == "dirty"}
    assert dirty == set(errors(run))
    assert len(dirty) == 3


def test_one_interrupt_cancels_nothing_even_after_a_tenant_failed(database: Database, fleet: list[Tenant]) -> None:
    with session(database) as other:
        other.execute("CREATE TABLE tenant_t01.b1 ()")
    pause = "CASE current_schema() WHEN 'tenant_t01' THEN 0.1 ELSE 0.5 END"
    process, pipe = start_runner(database.conninfo, fleet, steps(1, pause), on_error="stop")
    with pipe, session(database) as watch:
        assert receive(pipe) == "planned"
        wait_until(lambda: activity(watch, SLEEPS) == 3)
        wait_until(lambda: [entry for entry in read_history(watch) if entry.state == "failed"])
        interrupt(process, signal.SIGINT)
        run = receive(pipe)
        process.join()
    assert list(errors(run)) == ["t01"]
    assert run.done_count == 2
    assert find_halves(database, fleet[1:]) == []


def test_a_run_in_a_thread_leaves_interrupts_to_the_main_thread(database: Database, fleet: list[Tenant]) -> None:
    usual = signal.getsignal(signal.SIGINT)
    with in_background(migrate, database, fleet, steps(1)) as runs:
        assert signal.getsignal(signal.SIGINT) is usual
    assert runs[0].is_complete


def test_progress_that_fails_ends_the_run_at_whole_versions(database: Database, fleet: list[Tenant]) -> None:
    def fail(result: TenantResult) -> None:
        raise BrokenPipeError(result.tenant)

    with pytest.raises(BrokenPipeError):
        migrate(database, fleet, steps(2, pause=0.05), progress=fail, workers=2)
    assert () in set(versions(database, fleet).values())
    assert find_halves(database, fleet) == []


class Terminal:
    """A command in a terminal of its own, at which somebody sits."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.ours, theirs = pty.openpty()
        code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from erpkit.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=os.environ | environ,
        )  # fmt: skip
        os.close(theirs)

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def read_to_end(self) -> str:
        """Return all that the command wrote."""
        written = b""
        with suppress(OSError):  # Linux's end of a terminal
            while part := os.read(self.ours, 65536):
                written += part
        os.close(self.ours)
        self.process.wait()
        return written.decode()


def test_ctrl_c_on_the_command_ends_at_whole_versions_says_who_is_left_and_the_next_run_completes(
    database: Database, tmp_path: Path
) -> None:
    folder, environ = write_module(tmp_path, steps(2, pause=0.2))
    fleet = [create_tenant(database, [], f"tenant{number}") for number in range(5)]
    with database.connection() as connection:
        everyone = [ensure_template(connection), *fleet]
        migrations = read_migrations([Module(MODULE, migrations=folder)])
        plan = plan_up(everyone, migrations, read_applied(connection, everyone, migrations))
    terminal = Terminal("migrate", "up", "--confirm", plan.id, ERPKIT_DATABASE=database.conninfo, **environ)
    with session(database) as watch:
        wait_until(lambda: activity(watch, SLEEPS) == 3)
    terminal.press(b"\x03")
    written = terminal.read_to_end()
    assert terminal.process.returncode == 1
    assert "Traceback" not in written
    assert re.search(r"\d tenants not started: interrupted; run it again to go on", " ".join(written.split()))
    assert find_halves(database, everyone) == []
    assert () in versions(database, everyone).values()
    with database.connection() as connection:
        plan = plan_up(everyone, migrations, read_applied(connection, everyone, migrations))
    assert run_plan(database, plan, plan.id).is_complete
    assert set(versions(database, everyone).values()) == {(1, 2)}
    assert find_halves(database, everyone) == []
