"""The record of runs of an installation: what ran, what changed, running it again, pruning; and the looks that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erpkit.erp.installation import Installation
from erpkit.erp.part import Part
from erpkit.errors import UsageError
from erpkit.near import find_near
from erpkit.plan import Plan, Work

if TYPE_CHECKING:
    from pandas import DataFrame

    from erpkit.runs import RunResult
    from erpkit.runs.history import RunHistory, RunRecord
    from erpkit.runs.one_run import RunDetail
    from erpkit.runs.prune import RunPrunePlan, RunsPruned
    from erpkit.runs.record import Recorder
    from erpkit.runs.store import HistoryFile, Looks

_ALL = 1_000_000  # runs: more than any record holds
_SHORTEST = 4  # characters of an id that name a run


class Runs(Part):
    """What ran, when, and how it ended. It shows itself as a table of the newest runs."""

    _inner = frozenset({"looks", "recorder"})

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self.history().runs)

    def __getitem__(self, id_: str) -> RunDetail:
        return self.show(id_)

    def history(
        self, notebook: str = "", *, tenant: str = "", outcome: str = "", days: float | None = None,
        since: datetime | None = None, limit: int = 20,
    ) -> RunHistory:  # fmt: skip
        """Return the newest runs: of one notebook, that name a tenant, with an outcome, of the last `days` or `since` a time.

        The notebooks of those that were lost are marked.
        """
        from erpkit.runs.history import RunFilter, RunHistory  # noqa: PLC0415
        from erpkit.runs.killed import mark_lost  # noqa: PLC0415

        since = since if days is None else datetime.now(UTC) - timedelta(days=days)
        only = RunFilter(notebook or None, tenant or None, outcome or None, since)
        runs = self._list(only, limit)
        mark_lost(runs)
        others = [] if runs else self._list(RunFilter(), _ALL if notebook or tenant else 1)
        meant = _meant(others, notebook, tenant)
        return RunHistory(self._installation.target, tuple(runs), since, bool(others), meant)

    def summaries(self, notebook: str = "", *, days: float | None = None, limit: int = 1000) -> DataFrame:
        """Return the newest runs as one DataFrame: outcome, duration, parameters, and the facts of each summary as columns."""
        return self.history(notebook, days=days, limit=limit).frame()

    def show(self, id_: str) -> RunDetail:
        """Return one run in full, by its id or the beginning of it; raises UsageError for an id that no or several runs have."""
        from erpkit.runs.history import RunFilter  # noqa: PLC0415
        from erpkit.runs.one_run import RunDetail  # noqa: PLC0415

        if len(id_) < _SHORTEST:
            raise UsageError(f"{id_!r} is too short for the id of a run: give at least {_SHORTEST} characters of it")
        found = self._list(RunFilter(id=id_.lower()), 2)
        if len(found) > 1:
            raise UsageError(f"the ids of several runs begin with {id_!r}: give more of it")
        if not found:
            raise UsageError(f"there is no run {id_!r}: see erpkit runs")
        return RunDetail(found[0])

    def rerun(self, id_: str, output: Path | str = "runs", **options: Any) -> RunResult:
        """Run the notebook of a recorded run once more with the same parameters; `options` are those of `run_notebook`.

        The id of a plan among them is stale by then, and the notebook refuses it. Raises UsageError as `show`, and for a notebook
        that is not found.
        """
        from dataclasses import replace  # noqa: PLC0415

        from erpkit.runs import run_notebook  # noqa: PLC0415
        from erpkit.runs.one_run import find_notebook  # noqa: PLC0415

        run = self.show(id_).run
        notebook, note = find_notebook(run)
        result = run_notebook(notebook, run.parameters, output, recorder=self.recorder(), **options)
        return replace(result, problems=(*result.problems, note)) if note else result

    def prune(self, days: float = 90, keep: int = 1) -> Plan[RunPrunePlan, RunsPruned]:
        """Plan to delete runs with their files: those older than `days` days, but for the newest `keep` of the same work.

        The same work is the same notebook with the same parameters. With 0 days only `keep` counts.
        """
        from erpkit.runs.history import RunFilter  # noqa: PLC0415
        from erpkit.runs.prune import plan_prune, prune_runs  # noqa: PLC0415

        def make(_: Work) -> RunPrunePlan:
            return plan_prune(self._list(RunFilter(), _ALL), days, keep)

        def run(plan: RunPrunePlan, work: Work) -> RunsPruned:
            return prune_runs(self._installation.database, self._file(), plan, work)

        return Plan(make(Work()), make, run, self._installation.target, "runs")

    def recorder(self) -> Recorder:
        """Return what writes runs down in this database; where it does not answer, the recorder knows why."""
        from erpkit.runs.record import Recorder  # noqa: PLC0415

        return Recorder.opening(lambda: self._installation.database, self._installation.settings.home)

    def looks(self) -> Looks:
        """Return the earlier looks at this database."""
        from erpkit.runs.store import Looks  # noqa: PLC0415

        return Looks(self._installation.database, self._installation.settings.home)

    def _list(self, only: Any, limit: int) -> list[RunRecord]:
        from erpkit.runs.history import list_runs  # noqa: PLC0415

        with self._installation.database.connection() as connection:
            return list_runs(connection, only=only, limit=limit, file=self._file())

    def _file(self) -> HistoryFile:
        from erpkit.runs.store import HistoryFile  # noqa: PLC0415

        return HistoryFile.of(self._installation.database, self._installation.settings.home)

    def __str__(self) -> str:
        return repr(self.history().table)

    def _repr_html_(self) -> str:
        return self.history().table._repr_html_()


def _meant(others: Sequence[RunRecord], notebook: str, tenant: str) -> str:
    """Return what was probably meant by a notebook or a tenant that no run has; "" where there are such runs."""
    known = ((notebook, {run.notebook for run in others}), (tenant, {slug for run in others for slug in run.tenants}))
    near = [one for name, names in known if name and name not in names for one in find_near(name, names)]
    return f"did you mean {' or '.join(near)}?" if near else ""
