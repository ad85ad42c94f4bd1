"""A run in a process of its own: the job comes on standard input, the result goes to standard output, both as JSON."""

from __future__ import annotations

import os
import sys

from erpkit.errors import ErpkitError
from erpkit.runs.fleet import do_job

if __name__ == "__main__":
    # The kernel inherits standard output; what it or its children write there must not get into the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        answer.write(do_job(sys.stdin.read()))
    except ErpkitError as error:
        sys.exit(f"erpkit: {error}")
