"""What runs leave in a folder: names that tell what they are, an index of them, and nothing that overwrites another."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from erpkit.errors import UsageError
from erpkit.runs import worst_exit_code
from erpkit.runs.entries import head, read_entries
from erpkit.runs.index import write_index
from erpkit.runs.output import Destination, output_name, read_tenants
from erpkit.runs.run import is_news

pytestmark = pytest.mark.usefixtures("warm_runs")

AT = datetime(2026, 11, 25, 15, 41, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tenants", "name"),
    [
        ((), "inspect_tenants-20261125T154114Z"),
        (("acme",), "inspect_tenants-acme-20261125T154114Z"),
        (("acme", "bluebird"), "inspect_tenants-acme+bluebird-20261125T154114Z"),
        (("a", "b", "c", "d"), "inspect_tenants-4-tenants-20261125T154114Z"),
        (("../../etc/x y",), "inspect_tenants--etc-x-y-20261125T154114Z"),
    ],
)
def test_an_output_is_named_by_notebook_tenant_and_time(tenants: tuple[str, ...], name: str) -> None:
    assert output_name("inspect_tenants", tenants, AT) == name


def test_tenants_are_read_from_either_parameter() -> None:
    assert read_tenants({"tenants": ["a", "b"]}) == ("a", "b")
    assert read_tenants({"tenant": "a", "tenants": []}) == ("a",)
    assert read_tenants({"n": 1}) == ()


def test_runs_that_reserve_the_same_name_at_once_get_files_of_their_own(tmp_path: Path) -> None:
    destination = Destination(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: destination.reserve("same"), range(24)))
    assert len(set(paths)) == 24
    (tmp_path / "other.html").write_text("a report whose notebook is gone")
    assert destination.reserve("other").name == "other-2.ipynb"
    assert destination.reserve("same", anew=True).name == "same.ipynb"


@pytest.mark.parametrize("place", ["ftp://host/x", "nowhere://x", "https://host/x"])
def test_a_url_that_papermill_cannot_write_to_is_refused(place: str) -> None:
    with pytest.raises(UsageError, match=r"papermill cannot write to \w+://"):
        Destination(place)


def test_a_url_whose_part_of_papermill_is_missing_names_what_to_install() -> None:
    with pytest.raises(
        UsageError, match=r"gs:// needs a part of papermill that is missing: pip install 'papermill\[gcs\]'"
    ):
        Destination("gs://bucket/x")


def _report(folder: Path, name: str, notebook: str, outcome: str, started: str, tenant: str = "acme") -> None:
    facts = {"notebook": notebook, "title": "A & B", "key": notebook, "tenants": [tenant] if tenant else [], "outcome": outcome,
             "verdict": f"{outcome} <script>", "started": started, "seconds": 1.25}  # fmt: skip
    (folder / name).write_text(f"<html><head>{head(facts)}</head></html>")


def test_the_index_lists_a_folders_reports_the_newest_first_and_passes_over_other_files(tmp_path: Path) -> None:
    _report(tmp_path, "a.html", "check", "ok", "2026-01-01T00:00:00+00:00")
    _report(tmp_path, "b.html", "inspect", "timed out", "2026-01-02T00:00:00+00:00")
    (tmp_path / "foreign.html").write_text("<html>")
    (tmp_path / "broken.html").write_text('<meta name="erpkit-run" content="{">')
    page = write_index(tmp_path).read_text()
    assert [entry.name for entry in read_entries(tmp_path)] == ["b.html", "a.html"]
    assert page.index('href="b.html"') < page.index('href="a.html"')
    for text in (
        "2 runs",
        'class="bad">timed out',
        'class="good">ok',
        "2026-01-02 00:00",
        'id="n2"> inspect',
        "A &amp; B",
    ):
        assert text in page
    assert (page.count("<script"), "timed out <script>" in page) == (
        1,
        False,
    )  # that of the search, which the policy names
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.html",
        "b.html",
        "foreign.html",
        "broken.html",
        "index.html",
        ".erpkit-index.jsonl",
    }


def test_a_notebook_is_as_bad_as_the_worst_of_its_last_runs_until_one_of_all_tenants_is_fine(tmp_path: Path) -> None:
    _report(tmp_path, "old.html", "check", "killed", "2026-01-01T00:00:00+00:00", "delta")
    _report(tmp_path, "a.html", "check", "failed", "2026-01-05T00:00:00+00:00")
    _report(tmp_path, "b.html", "check", "findings", "2026-01-05T00:00:01+00:00", "bluebird")
    _report(tmp_path, "c.html", "check", "ok", "2026-01-05T00:00:02+00:00", "cobalt")
    assert _state_of_notebooks(tmp_path) == ("bad-row", "a.html")
    _report(tmp_path, "d.html", "check", "ok", "2026-01-05T00:00:03+00:00")
    assert _state_of_notebooks(tmp_path) == ("look-row", "b.html")
    _report(tmp_path, "e.html", "check", "ok", "2026-01-05T00:00:04+00:00", "")
    assert _state_of_notebooks(tmp_path) == ("good-row", "e.html")


def _state_of_notebooks(folder: Path) -> tuple[str, str]:
    found = re.search(r'<tr class="([\w-]+)"><td><a href="([^"]+)"', write_index(folder).read_text())
    assert found
    return found[1], found[2]


def test_indexes_written_at_once_hold_every_report(tmp_path: Path) -> None:
    def finish(n: int) -> None:
        _report(tmp_path, f"{n}.html", "check", "ok", f"2026-01-01T00:00:{n:02}+00:00")
        write_index(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finish, range(30)))
    assert "30 runs" in (tmp_path / "index.html").read_text()


def test_the_exit_code_of_many_runs_is_that_of_the_worst() -> None:
    assert worst_exit_code([]) == 0
    assert worst_exit_code(["ok", "findings"]) == 3
    assert worst_exit_code(["findings", "failed", "ok"]) == 1
    assert worst_exit_code(["failed", "timed out"]) == 124
    assert worst_exit_code(["timed out", "killed"]) == 137
    assert worst_exit_code(["killed", "interrupted"]) == 130


def test_news_is_a_change_of_outcome_and_a_first_run_that_is_not_ok() -> None:
    assert is_news(None, "failed")
    assert is_news("ok", "findings")
    assert is_news("failed", "ok")
    assert not is_news(None, "ok")
    assert not is_news("failed", "failed")
