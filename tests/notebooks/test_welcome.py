"""The notebook that JupyterLab opens on: of use on nothing, on the sample ERP and on an ERP that erpkit did not make."""

from __future__ import annotations

from pathlib import Path

import pytest

from erpkit.database import Database
from erpkit.runs import RunResult, open_notebook, run_notebook
from erpkit.sample.demo import Planted


def _welcome(monkeypatch: pytest.MonkeyPatch, folder: Path, environ: dict[str, str]) -> tuple[RunResult, str]:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = run_notebook(open_notebook("welcome"), {}, folder)
    assert result.error is None
    return result, result.report.read_text()


def test_it_names_the_tenants_and_what_needs_a_look(
    erp: Planted, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"ERPKIT_DATABASE": database.conninfo, "ERPKIT_MODULES": "erpkit.sample"}
    result, page = _welcome(monkeypatch, tmp_path, environ)
    assert result.outcome == "findings"  # as the card names some, the first line does not say that nothing needs a look
    assert "No problems found" not in page
    assert "3 active, 1 suspended" in page
    assert erp.behind in page


def test_on_nothing_it_says_how_to_begin(
    nothing: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, page = _welcome(monkeypatch, tmp_path, nothing)
    assert "erpkit demo" in page


def test_an_erp_that_erpkit_did_not_make_is_welcome(
    foreign: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, page = _welcome(monkeypatch, tmp_path, foreign)
    assert result.outcome in ("ok", "findings")
    assert "What erpkit can do with this database" in page
