"""Growth and the age of findings appear at the second look, with no parameter: at the door, on the command line, in notebooks."""

import json
import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

import erpkit as package
from erpkit.database import Database
from erpkit.runs import Recorder, open_notebook, run_notebook
from erpkit.sample.demo import Planted
from tests.command import erpkit

pytestmark = pytest.mark.usefixtures("warm_runs")


@pytest.fixture(autouse=True)
def environment(database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")
    monkeypatch.setenv("ERPKIT_HOME", str(tmp_path / "home"))


def _grow(database: Database, rows: int = 100) -> None:
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("SET search_path TO tenant_acme")
        connection.execute(f"CREATE TABLE grown AS SELECT n FROM generate_series(1, {rows}) n")


def _age(database: Database, by: timedelta) -> None:
    """Make all looks older, with what they say of the time."""
    from erpkit.runs.changes import Look
    from erpkit.runs.store import Looks

    looks = Looks(database, Path("/nonexistent"))
    last, _ = looks.find("inspection")
    assert last
    with psycopg.connect(database.conninfo) as connection:
        connection.execute("DELETE FROM public.erpkit_looks")
    document = last.document()
    at = (last.at - by).isoformat()
    document |= {"at": at, "figures": {**last.figures, "taken_at": at}}
    document["findings"] = [{**one, "since": at} for one in document["findings"]]
    assert looks.keep("inspection", [], Look.of(document)) == ""


def test_an_inspection_of_no_tenants_is_nothing_to_compare_with(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "ERPKIT_TENANTS_QUERY", "SELECT nspname AS slug, nspname AS schema_name FROM pg_namespace WHERE nspname = 'a'"
    )
    with package.open() as opened:
        assert [one.kind for one in opened.tenants.inspect().findings] == ["no tenants"]
        with database.connection() as connection:
            connection.execute("CREATE SCHEMA a; CREATE TABLE a.t (n int)")
        first = opened.tenants.inspect()
        assert (first.before, dict(first.ages)) == (None, {})


def test_the_second_inspection_tells_growth_and_how_long_each_finding_has_been_known(
    erp: Planted, database: Database
) -> None:
    with package.open() as opened:
        first = opened.tenants.inspect()
        assert (first.before, {one.age for one in first.findings}) == (None, {""})
        _age(database, timedelta(days=3))
        _grow(database)
        second = opened.tenants.inspect()
        assert second.growths["acme"].rows == 100
        ages = {str(one): one.age for one in second.findings}
        new = {text: age for text, age in ages.items() if age != "for 3 days"}
        day = f"{first.now.taken_at - timedelta(days=3):%Y-%m-%d}"
        assert new == {"acme: table grown is extra": f"new since {day}"}
        assert len(ages) > len(new)
        assert opened.tenants["acme"].inspect().growth is not None
        assert [one.age for one in opened.tenants["acme"].inspect().findings if "grown" in str(one)] == [
            f"new since {day}"
        ]
        assert {one.age for one in opened.tenants.inspect(keep=False).findings} == {""}


def test_the_command_line_and_the_report_of_a_notebook_tell_it_too(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    assert "growth since" not in erpkit("tenants", "inspect").stderr
    _age(database, timedelta(days=1))
    _grow(database)
    done = erpkit("tenants", "inspect")
    shown = done.stdout + done.stderr
    assert "(24 hours): +" in shown
    assert re.search(r"! acme: table grown is extra \[new since \S+\]", shown)
    assert "[for 1 day]" in shown
    document = json.loads(erpkit("tenants", "inspect", "--json").stdout)
    assert next(one["growth"]["rows"] for one in document["tenants"] if one["slug"] == "acme") == 100
    result = run_notebook(open_notebook("inspect_tenants"), {}, tmp_path / "runs", recorder=Recorder(database))
    report = result.report.read_text()
    for text in ("new since ", "for 1 day", "grew most"):
        assert text in report, text


def test_the_second_look_at_event_logs_tells_what_moved(erp: Planted, database: Database, tmp_path: Path) -> None:
    with package.open() as opened:
        first, lag = opened.events.health(), opened.events.lag()
        assert (len(first.trend.rows), len(lag.trend.rows)) == (0, 0)
        assert first.trend.empty == "There is no earlier look to compare with."
        with psycopg.connect(database.conninfo) as connection:
            connection.execute("DELETE FROM tenant_acme.erpkit_dead_letters")
        second = opened.events.health()
        moved = {one.name: one.difference for one in second.trend.rows}
        assert moved["dead letters"] == -first.facts["dead letters"]  # type: ignore[operator]
        assert all(one.age.startswith("for ") for one in second.findings)
        assert len(opened.events.health(max_lag=0).trend.rows) == 0  # with other limits it is another look
        assert {one.age for one in opened.events.lag(max_lag=None, max_age=None).findings} <= {""}
    result = run_notebook(open_notebook("event_health"), {}, tmp_path / "runs", recorder=Recorder(database))
    report = result.report.read_text()
    assert "There is no earlier look" not in report
    assert "What changed" in report


def test_an_erp_that_is_only_read_has_its_trends_from_under_home(
    erp: Planted, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_TENANTS_QUERY", "SELECT slug, schema_name FROM public.tenants")
    monkeypatch.delenv("ERPKIT_MODULES")
    with package.open() as opened:
        opened.tenants.inspect()
        _grow(database)
        assert opened.tenants.inspect().growths["acme"].rows == 100
    assert len(list((tmp_path / "home" / "history").iterdir())) == 1
    with database.connection() as connection:
        assert connection.execute("SELECT to_regclass('public.erpkit_looks')").fetchone() == (None,)


def test_an_inspection_works_where_nothing_can_be_kept_and_says_so(
    erp: Planted, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPKIT_TENANTS_QUERY", "SELECT slug, schema_name FROM public.tenants")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ERPKIT_HOME", str(tmp_path / "file"))
    with package.open() as opened:
        found = opened.tenants.inspect()
    assert len(found) > 0
    assert found.note.startswith("this look was not kept for the next one: ")
    assert "And this look was not kept for the next one: " in found.growth.empty
