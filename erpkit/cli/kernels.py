"""erpkit kernels: the warm processes of this user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erpkit.cli.helping import Group
from erpkit.cli.output import as_rows, print_json, print_table, say
from erpkit.errors import ErpkitError, UsageError
from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError, check_wanted, find_folder
from erpkit.plural import count_of


@click.group("kernels", cls=Group)
def command() -> None:
    """Start, list and stop warm processes, which have a notebook's imports loaded and fork a kernel or a run in a moment.

    `erpkit run` uses one that runs, and --each-tenant starts one. Other programs use it by the name of the kernel, erpkit:
    `papermill -k erpkit`, `pytest --nbval-kernel-name erpkit`, JupyterLab's launcher. It ends after ten minutes without work.
    """


@command.command()
def start() -> None:
    """Start the warm process for this Python and environment; it ends after ten minutes without work."""
    try:
        state = link.ask("status", link.start())
    except NoWarmKernelError as reason:
        raise ErpkitError(f"there is no warm process: {reason}") from None
    say(f"warm process {state['pid']} serves")


@command.command("list")
@as_rows
def list_(as_json: bool) -> int:
    """List the warm processes of this user, and what was forked from each; exit code 3 if there is none."""
    found = [{**state, "socket": str(path)} for path, state in _ask_all("status")]
    if as_json:
        print_json(found)
    else:
        rows = [
            (str(one["pid"]), f"{one['seconds']:.0f}", str(one["served"]), str(len(one["running"]))) for one in found
        ]
        print_table(
            ["process", "seconds", "served", "running"], rows, right=["process", "seconds", "served", "running"]
        )
    return 0 if found else 3


@command.command()
@click.option("--now", is_flag=True, help="End the kernels and runs that were forked from them, too.")
def stop(now: bool) -> None:
    """Stop the warm processes of this user; kernels and runs that were forked from them go on to their end, unless --now."""
    stopped = _ask_all("stop" if now else "retire")
    forked = count_of(sum(len(state["running"]) for _, state in stopped), "process", "processes")
    more = "" if forked.startswith("0 ") else f", {forked} that it forked {'ended' if now else 'run on'}"
    say(f"{count_of(len(stopped), 'warm process', 'warm processes')} stopped{more}")


def _ask_all(role: str) -> list[tuple[Path, dict[str, Any]]]:
    try:
        check_wanted({})
        paths = sorted(find_folder().glob("*.sock"))
    except NoWarmKernelError as reason:
        raise UsageError(str(reason)) from None
    answers = []
    for path in paths:
        try:
            answers.append((path, link.ask(role, path)))
        except NoWarmKernelError:  # it was killed, and left its socket
            path.unlink(missing_ok=True)
    return answers
