"""erpkit kernels: the warm processes of this user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erpkit.cli.helping import Group
from erpkit.cli.output import as_rows, as_table, is_for_programs, print_json, show, show_done
from erpkit.errors import ErpkitError, UsageError
from erpkit.kernels import link
from erpkit.kernels.place import NoWarmKernelError, check_wanted, find_folder
from erpkit.plural import count_of
from erpkit.table import Column, Table


@click.group("kernels", cls=Group)
def command() -> None:
    """Start, list and stop warm processes, which have a notebook's imports loaded and fork a kernel or a run in a moment.

    `erpkit run` uses one that runs, and --each-tenant starts one. Other programs use it by the name of the kernel, erpkit:
    `papermill -k erpkit`, `pytest --nbval-kernel-name erpkit`, JupyterLab's launcher. It ends after ten minutes without work.
    """


@command.command()
@as_table
def start() -> None:
    """Start the warm process for this Python and environment; it ends after ten minutes without work."""
    try:
        state = link.ask("status", link.start())
    except NoWarmKernelError as reason:
        raise ErpkitError(f"there is no warm process: {reason}") from None
    show_done(f"warm process {state['pid']} serves", {column.name: column.value(state) for column in _COLUMNS})


@command.command("list")
@as_rows
def list_(as_json: bool) -> int:
    """List the warm processes of this user, and how much was forked from each; exit code 3 if none serves.

    One that was stopped is listed as long as a kernel or a run that it forked goes on: `erpkit kernels stop --now` ends that, too.
    """
    found = [{**state, "socket": str(path)} for path, state in _ask_all("status")]
    if as_json:
        print_json(found)
    else:
        show(Table(_COLUMNS, found, "No warm process runs: erpkit kernels start"))
    return 0 if any(not one["retired"] for one in found) else 3


@command.command()
@click.option("--now", is_flag=True, help="End the kernels and runs that were forked from them, too.")
@as_table
def stop(now: bool) -> None:
    """Stop the warm processes of this user; kernels and runs that were forked from them go on to their end, unless --now."""
    stopped = sum(not state["retired"] for _, state in _ask_all("status"))
    forked = [
        {"of": state["pid"], **one} for _, state in _ask_all("stop" if now else "retire") for one in state["running"]
    ]
    if forked and not is_for_programs():
        show(Table(_FORKED, forked))
    count = count_of(len(forked), "process", "processes")
    word = "ended" if now else "runs on" if len(forked) == 1 else "run on"
    more = f", {count} forked from there {word}" if forked else ""
    told = f"{count_of(stopped, 'warm process', 'warm processes')} stopped{more}"
    show_done(told, *({column.head: column.value(one) for column in _FORKED} for one in forked))


_COLUMNS = (
    Column[dict[str, Any]]("process", lambda one: str(one["pid"]), right=True),
    Column[dict[str, Any]]("seconds", lambda one: round(one["seconds"])),
    Column[dict[str, Any]]("served", lambda one: one["served"]),
    Column[dict[str, Any]]("running", lambda one: len(one["running"])),
    Column[dict[str, Any]]("state", lambda one: "stopped" if one["retired"] else "serves"),
)
_FORKED = (
    Column[dict[str, Any]]("process", lambda one: str(one["pid"]), right=True),
    Column[dict[str, Any]]("kind", lambda one: {"call": "command"}.get(one["role"], one["role"])),
    Column[dict[str, Any]]("seconds", lambda one: round(one["seconds"])),
    Column[dict[str, Any]]("forked from", lambda one: str(one["of"]), right=True),
)


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
