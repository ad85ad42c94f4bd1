"""The runs of notebooks that an installation has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from erpkit.erp.installation import Installation
from erpkit.runs.history import RunHistory, RunRecord, list_runs
from erpkit.runs.record import Recorder

__all__ = ["Runs"]


class Runs:
    """What ran, when, and how it ended. It shows itself as a table of the newest runs."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self.history().runs)

    def history(self, notebook: str = "", *, days: float | None = None, limit: int = 20) -> RunHistory:
        """Return the newest runs, of one notebook or all, of the last `days` or ever."""
        since = None if days is None else datetime.now(UTC) - timedelta(days=days)
        with self._installation.database.connection() as connection:
            runs = list_runs(connection, notebook or None, since=since, limit=limit)
        return RunHistory(self._installation.target, tuple(runs), since)

    def recorder(self) -> Recorder:
        """Return what writes runs down in this database; where it does not answer, the recorder knows why."""
        return Recorder.opening(lambda: self._installation.database)

    def __repr__(self) -> str:
        return repr(self.history().table)

    def _repr_html_(self) -> str:
        return self.history().table._repr_html_()
