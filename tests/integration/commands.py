"""The command line, run in this process: for what ends at once, and needs no signal."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from subprocess import CompletedProcess
from unittest import mock

from erpkit.cli import main


def run_here(*arguments: str) -> CompletedProcess[str]:
    """Return what `erpkit ARGUMENTS` prints and ends with."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", ["erpkit", *arguments]):
        try:
            main()
        except SystemExit as ended:
            return CompletedProcess(arguments, int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("main always exits")
