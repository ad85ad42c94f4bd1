"""One recorded run in full, and finding its notebook again to run it once more."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erpkit.errors import UsageError
from erpkit.finding import Finding
from erpkit.result import Result, Summary
from erpkit.runs.changes import Changes, FactChange
from erpkit.runs.history import RunRecord
from erpkit.runs.notebook import Notebook, list_notebooks, open_notebook
from erpkit.table import Column, Table


@dataclass(frozen=True)
class RunDetail(Result):
    """A recorded run in full: where it came from, its parameters and facts, what it found, and what was different before."""

    run: RunRecord

    @property
    def changes(self) -> Changes | None:
        """What was different from the run before; None where that is not recorded."""
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            return Changes.of(self.run.changes or {})
        return None

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that the run showed."""
        return dict(self.run.facts or {})

    @property
    def findings(self) -> list[Finding]:
        """What the run found, with the age that each finding had then."""
        changes = self.changes
        if changes is None:
            return [Finding("finding", "", text) for text in self.run.findings or ()]
        kept = [*changes.new, *changes.known]
        ages = changes.ages
        return [
            Finding(one.kind, one.subject, one.text.removeprefix(f"{one.subject}: "), one.severity, age=ages.get(one.key, ""))
            for one in kept
        ]  # fmt: skip

    @property
    def summary(self) -> Summary:
        """The summary that the run showed."""
        return Summary(str(self), self.facts, self.findings)

    @property
    def table(self) -> Table[tuple[str, object]]:
        """One row for each thing that is known of the run."""
        run, versions = self.run, ", ".join(f"{name} {version}" for name, version in self.run.versions.items())
        known: dict[str, object] = {
            "run": run.id, "notebook": run.notebook, "outcome": run.verdict, "exit code": run.exit_code, "started": run.started_at,
            "ended": run.ended_at,
            "seconds": None if run.seconds is None else round(run.seconds, 3), "attempt": run.attempt, "by": f"{run.who}@{run.host}",
            "revision": run.revision, "versions": versions, "output": run.output, "report": run.report,
            "recorded in": run.place or "the database",
            **{f"parameter {name}": value for name, value in run.parameters.items()},
            **{f"fact {name}": value for name, value in self.facts.items()},
        }  # fmt: skip
        rows = [(name, value) for name, value in known.items() if value not in (None, "")]
        return Table(_COLUMNS, rows, "Nothing is known of the run.")

    @property
    def moved(self) -> Table[FactChange]:
        """One row per fact that was another one at the run before."""
        return self.changes.table if self.changes else Changes(self.run.started_at).table

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """What is known of the run, and which facts moved."""
        return (self.table, self.moved)

    @property
    def document(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self.run)

    def __str__(self) -> str:
        return f"{self.run.notebook}: {self.run.verdict} ({self.run.started_at:%Y-%m-%d %H:%M})"


def find_notebook(run: RunRecord) -> tuple[Notebook, str]:
    """Return the notebook of a recorded run, and a note if it was edited since then; raises UsageError if it is not found.

    It is the file that papermill noted in the run's output, else the one of erpkit's that has its name.
    """
    noted = _read_input(run.output or "")
    own = [name for name in list_notebooks() if Path(name).name == run.notebook]
    for name in [*([noted] if noted and Path(noted).is_file() else []), *own]:
        notebook = open_notebook(name)
        is_same = hashlib.sha256(notebook.path.read_bytes()).hexdigest() == run.checksum
        return notebook, "" if is_same else f"{notebook.path} is not the same as in that run"
    raise UsageError(
        f"the notebook {run.notebook} of run {run.id[:8]} is not found{f' at {noted}' if noted else ''}: "
        "give its path to erpkit run"
    )


def _read_input(output: str) -> str:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(Path(output).read_text("utf-8"))["metadata"]["papermill"]["input_path"])
    return ""


_COLUMNS = (
    Column[tuple[str, object]]("what", lambda row: row[0]),
    Column[tuple[str, object]]("value", lambda row: row[1]),
)
