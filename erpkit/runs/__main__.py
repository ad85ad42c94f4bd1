"""A run in a process of its own: the job comes on standard input, the result goes to standard output, both as JSON."""

from __future__ import annotations

import sys

from erpkit.errors import ErpkitError
from erpkit.runs.job import do_job

if __name__ == "__main__":
    try:
        sys.stdout.write(do_job(sys.stdin.read()))
    except ErpkitError as error:
        sys.exit(f"erpkit: {error}")
