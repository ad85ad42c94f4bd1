"""The runbook for a poisoned message in earnest, run by run, as an operator would."""

from pathlib import Path
from typing import Any

import pytest

from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.events import list_dead_letters
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from erpkit.tenants import get_tenant

_RATE = "INSERT INTO {schema}.billing_exchange_rates (currency, euros) VALUES ('CHF', 1.05)"


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def _run(folder: Path, **parameters: Any) -> RunResult:
    result = run_notebook(open_notebook("runbooks/poisoned_message"), {"rehearse": False, **parameters}, folder)
    assert result.summary is not None, result.error
    return result


def _open(database: Database, slug: str) -> int:
    with database.connection() as connection:
        return len(list_dead_letters(connection, [get_tenant(connection, slug)]))


def test_the_first_run_changes_nothing_and_the_next_one_mends_and_retries(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    dry = _run(tmp_path, cause="no exchange rate", mend=_RATE)
    assert dry.summary is not None
    assert (dry.outcome, dry.summary.facts["planned"], dry.summary.facts["still open"]) == ("findings", 3, 3)
    page = dry.report.read_text()
    for text in ("ErpkitError: no exchange rate for CHF", "Dry run: nothing was changed.", "correlation_id"):
        assert text in page
    mend = dry.summary.facts["mend plan"]
    assert (f"plan {mend}" in page, dry.summary.facts["mended"]) == (True, 0)
    assert "payload: currency" not in page
    assert _open(database, erp.dead_letters) == 3

    given = {"rehearse": False, "mend": f"{_RATE}, ('USD', 1)", "confirm_mend": mend}
    other = run_notebook(open_notebook("runbooks/poisoned_message"), given, tmp_path)
    assert (other.exit_code, f"{mend!r} is not the id of the present plan" in str(other.error)) == (2, True), (
        other.error
    )
    with pytest.raises(UsageError, match="parameter confirm_mend = 'yes' is not the id of a plan"):
        run_notebook(open_notebook("runbooks/poisoned_message"), {**given, "confirm_mend": "yes"}, tmp_path)

    plan = dry.summary.facts["plan"]
    done = _run(tmp_path, cause="no exchange rate", mend=_RATE, confirm_mend=mend, confirm=plan, show_payload=True)
    assert done.summary is not None
    assert done.summary.facts["mended"] == 1
    assert (done.outcome, done.summary.facts["handled"], _open(database, erp.dead_letters)) == ("ok", 3, 0)
    assert "payload: currency" in done.report.read_text()

    nothing = _run(tmp_path)
    assert nothing.summary is not None
    assert (nothing.outcome, nothing.summary.facts["planned"]) == ("ok", 0)
