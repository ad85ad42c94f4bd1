"""A user without a name, as in `docker run --user 12345`: everything works on a database of its own, and says who acted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from erpkit.config import acting_user
from erpkit.database import Database
from erpkit.modules import Registry
from erpkit.runs import list_runs
from tests.command import refused
from tests.conftest import plant_copy

_UID = 12345
_ALL_MAY_READ = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]  # the checkout may lie in root's home
_AS_ROOT = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", *_ALL_MAY_READ]
_AS_ANOTHER = ["unshare", "--user", f"--map-user={_UID}"]
_RUN = [sys.executable, "-c", "from erpkit.cli import main; main()"]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(shared_database: Database, tmp_path: Path) -> Command:
    """Call erpkit as a user without a name and without HOME, in a folder where it may write."""
    tmp_path.chmod(0o777)
    usual = {"PATH": os.environ["PATH"], "ERPKIT_DATABASE": shared_database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}

    def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        switch = _AS_ROOT if os.geteuid() == 0 else _AS_ANOTHER
        variables = {name: value for name, value in (usual | environ).items() if value}
        return subprocess.run(
            [*switch, *_RUN, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False,
            timeout=120,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module", autouse=True)
def _planted(shared_database: Database, registry: Registry) -> None:
    plant_copy(shared_database, registry, 3)


def test_replay_and_swap_note_the_uid(command: Command, shared_database: Database) -> None:
    replay = ("events", "replay", "--tenant", "bluebird", "--json")
    plan = json.loads(command(*replay, "--topic", "billing.*").stdout)
    done = command(*replay, "--topic", "billing.*", "--confirm", plan["plan"])
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "done"), done.stderr
    projection = ("events", "replay", "--tenant", "bluebird", "--handler", "catalog.on_price_changed")
    assert command(*projection, "--shadow").returncode == 0
    swap = json.loads(command(*projection, "--swap", "--json").stdout)["swap"]
    swapped = command(*projection, "--swap", "--confirm", swap)
    assert "swapped" in swapped.stderr, swapped.stderr
    with shared_database.connection() as connection:
        query = "SELECT DISTINCT requested_by FROM tenant_bluebird.erpkit_replays"
        assert connection.execute(query).fetchall() == [(f"uid {_UID}",)]


def test_a_migration_and_a_run_note_the_uid(command: Command, shared_database: Database) -> None:
    plan = json.loads(command("migrate", "plan", "--json").stdout)
    assert command("migrate", "up", "--confirm", plan["id"]).returncode == 0
    done = command("run", "inspect_tenants", "--output", "out", "--tenant", "cobalt", "--json")
    assert json.loads(done.stdout)["outcome"] in ("ok", "findings"), done.stderr
    with shared_database.connection() as connection:
        assert [run.who for run in list_runs(connection)] == [f"uid {_UID}"]
        row = connection.execute("SELECT who FROM public.erpkit_migrations ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    assert row[0].startswith(f"uid {_UID}@")


def test_the_embedded_server_says_in_one_line_what_to_do(command: Command) -> None:
    what = f"does not run for uid {_UID}, which has no name in /etc/passwd: set ERPKIT_DATABASE"
    refused(command("tenants", "list", ERPKIT_DATABASE=""), 1, what)
    refused(command("tenants", "list", ERPKIT_DATABASE="", ERPKIT_HOME="home"), 1, what)
    refused(command("tenants", "list", ERPKIT_DATABASE="", HOME="/"), 1, what)


def test_what_needs_a_name_or_a_home_folder_says_which_setting_gives_it(command: Command) -> None:
    refused(command("tenants", "list", ERPKIT_DATABASE="host=/tmp"), 1, "name the database's user in ERPKIT_DATABASE")
    refused(command("tenants", "list", ERPKIT_HOME="~/x"), 2, "ERPKIT_HOME is ~/x, and there is no such home folder")
    refused(command("modules", "list", ERPKIT_MODULES="~/x.toml"), 2, "ERPKIT_MODULES is ~/x.toml")
    refused(command("lab"), 2, "set HOME")


def test_a_name_comes_from_jupyterhub_before_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "jovyan")
    assert acting_user({"JUPYTERHUB_USER": "ada"}) == "ada"
    assert acting_user({}) == "jovyan"
