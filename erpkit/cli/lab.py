"""erpkit lab: JupyterLab on the notebooks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

import erpkit
from erpkit.cli.helping import Command
from erpkit.cli.output import print_target, say
from erpkit.config import expand_home
from erpkit.errors import UsageError
from erpkit.modules.registry import is_path
from erpkit.runs import notebooks_folder


@click.command("lab", cls=Command, context_settings={"ignore_unknown_options": True})
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where to work on the notebooks.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def command(folder: Path | None, options: tuple[str, ...]) -> int:
    """Open JupyterLab on the notebooks; OPTIONS go to `jupyter lab`, such as --no-browser or --port 8899.

    In a checkout it opens the checkout's notebooks. An installed kit copies its notebooks to a folder of yours (by default
    `notebooks` under ERPKIT_HOME) and leaves those alone that are there already.
    """
    _check_home()
    with erpkit.open() as erp:
        print_target(erp.target)
        settings = erp.settings
    root = _working_copy(folder or settings.home / "notebooks") if folder or _is_installed() else notebooks_folder()
    say(f"notebooks: {root}")
    arguments = [
        f"--ServerApp.root_dir={root}",
        "--LabApp.default_url=/lab/tree/inspect_tenants.ipynb",
        "--LabApp.news_url=None",  # a kit for operators asks nothing of the network
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--KernelSpecManager.ensure_native_kernel=True",
    ]
    if find_spec("jupyter_scheduler"):  # jobs run as erpkit run runs them
        arguments.append("--BaseScheduler.execution_manager_class=erpkit.runs.scheduler.ExecutionManager")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    command = [sys.executable, "-m", "jupyterlab", *arguments, *options]
    # jupyter-scheduler brings a job's outputs to `jobs` in the working directory, and looks for them in the root.
    return subprocess.call(command, env=_environment() | {"ERPKIT_HOME": str(settings.home)}, cwd=root)


def _check_home() -> None:
    try:
        Path.home()
    except RuntimeError:
        raise UsageError("JupyterLab keeps its state in a home folder, and this user has none: set HOME") from None


def _environment() -> dict[str, str]:
    """Add erpkit's own defaults to JupyterLab's, which would ask each new user whether to fetch its makers' news.

    A modules.toml is named in full: a notebook runs in its own folder.
    """
    modules = os.environ.get("ERPKIT_MODULES", "")
    own = {"ERPKIT_MODULES": str(expand_home("ERPKIT_MODULES", modules).absolute())} if is_path(modules) else {}
    paths = [os.environ.get("JUPYTER_CONFIG_PATH"), str(Path(__file__).parent / "jupyter")]
    return os.environ | own | {"JUPYTER_CONFIG_PATH": os.pathsep.join(path for path in paths if path)}


def _is_installed() -> bool:
    return not (notebooks_folder().parent / "pyproject.toml").exists()


def _working_copy(folder: Path) -> Path:
    source = notebooks_folder()
    for path in sorted(source.rglob("*.ipynb")):
        target = folder / path.relative_to(source)
        if ".ipynb_checkpoints" not in path.parts and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder.absolute()
