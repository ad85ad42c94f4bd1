"""Runs in a process of its own: jobs come on standard input, results go to standard output, a line of JSON each."""

from __future__ import annotations

from erpkit.runs.workers import work

if __name__ == "__main__":
    work()
