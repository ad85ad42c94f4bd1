"""Executing a notebook with papermill, in a kernel of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpkit.errors import UsageError
from erpkit.runs.notebook import Notebook
from erpkit.runs.result import Ending
from erpkit.runs.secrets import Mask
from erpkit.runs.stopper import Stopper

if TYPE_CHECKING:
    from traitlets.config import Config

__all__ = ["execute", "find_kernel", "home_folder"]


def find_kernel(notebook: Notebook, wanted: str | None = None) -> str:
    """Return the name of the kernel to use: `wanted`, else the notebook's; raises UsageError for one that is not installed."""
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415 - slow to import

    name = wanted or notebook.kernel
    installed = sorted(KernelSpecManager().find_kernel_specs())
    if name not in installed:
        asks = "" if wanted else f", which {notebook.path.name} asks for"
        raise UsageError(
            f"there is no Jupyter kernel {name!r}{asks}: "
            + (f"use --kernel with one of {', '.join(installed)}" if installed else "pip install ipykernel")
        )
    return name


def execute(
    source: Path, output: Path, values: Mapping[str, Any], kernel: str, stopper: Stopper, mask: Mask
) -> tuple[Ending, Any]:
    """Run the cells of `source` and write `output` after each of them; return how it ended, and the notebook with its outputs."""
    import papermill  # noqa: PLC0415 - takes more than a second to import

    from erpkit.runs.engine import ENGINE, Attempt  # noqa: PLC0415 - imports papermill

    attempt = Attempt(stopper, mask)
    try:
        with _private_transport() as config:
            papermill.execute_notebook(
                _literal(source), _literal(output), dict(values), ENGINE,
                kernel_name=kernel, language="python", config=config, attempt=attempt,
            )  # fmt: skip
    except papermill.PapermillExecutionError:
        pass  # the attempt knows
    finally:
        stopper.close()
        attempt.said.close()
    return attempt.ending, attempt.node


@contextmanager
def home_folder() -> Iterator[None]:
    """Give Jupyter a temporary home folder where the user has none: one without a name, and without HOME."""
    with ExitStack() as stack:
        try:
            Path.home()
        except RuntimeError:
            os.environ["HOME"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="erpkit-home-"))
            stack.callback(os.environ.pop, "HOME")
        yield


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill fills in fields in braces


@contextmanager
def _private_transport() -> Iterator[Config]:
    """Let kernel and client talk over sockets in a folder of their own: over TCP anybody on the machine could listen."""
    from traitlets.config import Config  # noqa: PLC0415

    with tempfile.TemporaryDirectory(
        prefix=f"erpkit-{os.getpid()}-", dir="/tmp"
    ) as folder:  # a socket's path must be short
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
