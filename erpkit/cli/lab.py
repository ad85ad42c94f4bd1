"""erpkit lab: JupyterLab on the notebooks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import click

import erpkit
from erpkit.cli.helping import Command
from erpkit.cli.output import note, print_target
from erpkit.config import expand_home
from erpkit.errors import UsageError
from erpkit.modules.registry import is_path
from erpkit.runs import notebooks_folder

_WELCOME = "welcome.ipynb"
_COPIES = ".erpkit-copies.json"  # in the working copy: what each notebook was when it was copied


@click.command("lab", cls=Command, context_settings={"ignore_unknown_options": True})
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where to work on the notebooks.")
@click.option(
    "--pages", is_flag=True, help="Serve the notebooks as pages without code (Voilà), in place of JupyterLab."
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTER_OPTIONS]...")
def command(folder: Path | None, pages: bool, options: tuple[str, ...]) -> int:
    """Open JupyterLab on the notebooks; JUPYTER_OPTIONS go to `jupyter lab`, such as --no-browser or --port 8899.

    It works on copies of your own, by default in `notebooks` under ERPKIT_HOME: copies that you changed are left alone, the others
    follow the kit. Ctrl-C and SIGTERM end it, with its kernels.
    """
    _check_home()
    with erpkit.open() as erp:
        print_target(erp.target)
        settings = erp.settings
    root = _working_copy(folder or settings.home / "notebooks", notebooks_folder())
    note(f"notebooks: {root}")
    command = [sys.executable, "-m", *(_voila(root) if pages else _jupyterlab(root)), *options]
    # jupyter-scheduler brings a job's outputs to `jobs` in the working directory, and looks for them in the root.
    return _become(command, _environment() | {"ERPKIT_HOME": str(settings.home)}, root)


def _jupyterlab(root: Path) -> list[str]:
    arguments = [
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{_WELCOME}",
        "--LabApp.news_url=None",  # a kit for operators asks nothing of the network
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--KernelSpecManager.ensure_native_kernel=True",
        "--ServerApp.answer_yes=True",  # Ctrl-C ends it, without asking back
    ]
    if os.name == "posix":  # a login shell, Jupyter's choice without a terminal, would forget where erpkit is
        shell = {"shell_command": [os.environ.get("SHELL") or "sh"]}
        arguments.append(f"--ServerApp.terminado_settings={shell!r}")
    if find_spec("jupyter_scheduler"):  # jobs run as erpkit run runs them
        arguments.append("--BaseScheduler.execution_manager_class=erpkit.runs.scheduler.ExecutionManager")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")
    return arguments


def _voila(root: Path) -> list[str]:
    if find_spec("voila") is None:
        raise UsageError("pages are served by Voilà, which is not installed: pip install 'erpkit[voila]'")
    return ["voila", str(root)]  # the rest is in jupyter/voila.json


def _become(command: list[str], environment: dict[str, str], folder: Path) -> int:
    """Let the server take the place of this process, so that whatever ends this ends the server."""
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(folder)
        os.execve(command[0], command, environment)
    return subprocess.call(command, env=environment, cwd=folder)


def _check_home() -> None:
    try:
        Path.home()
    except RuntimeError:
        raise UsageError("JupyterLab keeps its state in a home folder, and this user has none: set HOME") from None


def _environment() -> dict[str, str]:
    """Add erpkit's own defaults to JupyterLab's, which would ask each new user whether to fetch its makers' news.

    A modules.toml is named in full: a notebook runs in its own folder. The commands that findings name are found in a terminal and
    in a cell of JupyterLab's, from whatever virtual environment this was started.
    """
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    modules = os.environ.get("ERPKIT_MODULES", "")
    own = {"ERPKIT_MODULES": str(expand_home("ERPKIT_MODULES", modules).absolute())} if is_path(modules) else {}
    folder = str(Path(__file__).parent / "jupyter")
    paths = {
        name: os.pathsep.join(filter(None, [os.environ.get(name), folder]))
        for name in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH")
    }
    return os.environ | own | paths | {"PATH": path}


def _working_copy(folder: Path, source: Path) -> Path:
    """Copy the notebooks that are missing, and renew those whose cells were not changed since they were copied."""
    kept, changed = _read_copies(folder), []
    for path in sorted(source.rglob("*.ipynb")):
        name, new = path.relative_to(source), _digests(path)
        target = folder / name
        if {".ipynb_checkpoints", "jobs"} & set(name.parts):
            continue
        old = kept.get(str(name), new)
        if not target.exists() or (old[0] != new[0] and set(old) & set(_digests(target))):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            kept[str(name)] = new
        elif old[0] != new[0]:
            changed.append(str(name))
    (folder / _COPIES).write_text(json.dumps(kept, indent=1))
    if changed:
        note(f"note: the kit has a newer version of what you changed; to get it, move yours away: {', '.join(changed)}")
    return folder.absolute()


def _read_copies(folder: Path) -> dict[str, list[str]]:
    try:
        kept = json.loads((folder / _COPIES).read_text())
        return {name: [one] if isinstance(one, str) else list(one) for name, one in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _digests(path: Path) -> list[str]:
    """Return a digest of the file, and one of what a person writes in it: JupyterLab saves outputs after each run."""
    text = path.read_bytes()
    try:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    except (ValueError, KeyError, TypeError):
        cells = []
    written = [json.dumps(cells).encode()] if cells else []
    return [hashlib.sha256(one).hexdigest() for one in (text, *written)]
