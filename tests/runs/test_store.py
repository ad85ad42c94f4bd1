"""Where looks and runs are kept: in the database or under ERPKIT_HOME, bounded, for several writers, and never in a look's way."""

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from erpkit.database import Database
from erpkit.runs.changes import Look, Sighting
from erpkit.runs.store import Bounds, HistoryFile, Looks
from erpkit.sample.demo import Planted

NOW = datetime.now(UTC)


def _look(minutes: int = 0, **facts: object) -> Look:
    at = NOW - timedelta(minutes=minutes)
    return Look(at, facts, [Sighting("k", "acme: behind", "warning", at, "acme", "pending")])


def _count(database: Database) -> int:
    with database.connection() as connection:
        if connection.execute("SELECT to_regclass('public.erpkit_looks')").fetchone() == (None,):
            return 0
        return int(connection.execute("SELECT count(*) FROM public.erpkit_looks").fetchall()[0][0])


@pytest.fixture
def reader(erp: Planted, database: Database) -> Iterator[Database]:
    """A login of an analyst, who may read what all may see."""
    name = f"reader_{uuid4().hex[:8]}"
    with database.connection() as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN IN ROLE erpkit_analyst")
    with Database(psycopg.conninfo.make_conninfo(database.conninfo, user=name), "reader") as reading:
        yield reading
    with database.connection() as connection:
        connection.execute(f"DROP ROLE {name}")


def test_a_look_is_kept_in_the_database_and_the_next_one_finds_it(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    looks = Looks(database, tmp_path)
    assert looks.find("inspection") == (None, None)
    assert [looks.keep("inspection", [], _look(minutes, n=minutes)) for minutes in (26 * 60, 25, 5)] == ["", "", ""]
    last, base = looks.find("inspection")
    assert (last and last.facts, base and base.facts) == ({"n": 5}, {"n": 26 * 60})
    assert last
    assert [one.text for one in last.sightings] == ["acme: behind"]
    assert (looks.find("lag"), looks.find("inspection", ["acme"]), list(tmp_path.iterdir())) == (
        (None, None),
        (None, None),
        [],
    )


def test_a_look_of_a_machine_whose_clock_is_ahead_is_no_earlier_one(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    looks = Looks(database, tmp_path)
    looks.keep("inspection", [], _look(-120, n=2))
    assert looks.find("inspection") == (None, None)
    looks.keep("inspection", [], _look(5, n=1))
    last, base = looks.find("inspection")
    assert (last and last.facts, base and base.facts) == ({"n": 1}, {"n": 1})


def test_a_look_at_some_tenants_is_compared_with_one_of_all_as_far_as_it_is_about_them(
    erp: Planted, database: Database, tmp_path: Path
) -> None:
    looks = Looks(database, tmp_path)
    looks.keep("inspection", [], _look(5, n=1))
    last, _ = looks.find("inspection", ["acme"], or_all=True)
    assert last
    assert (last.facts, len(last.sightings)) == ({}, 1)
    last, _ = looks.find("inspection", ["bluebird"], or_all=True)
    assert last
    assert last.sightings == []


def test_a_login_that_may_not_write_keeps_its_looks_under_its_home_and_finds_those_of_others(
    reader: Database, database: Database, tmp_path: Path
) -> None:
    Looks(database, tmp_path / "other").keep("inspection", [], _look(30, by="operator"))
    looks = Looks(reader, tmp_path)
    assert looks.keep("inspection", [], _look(10, by="analyst")) == ""
    last, base = looks.find("inspection")
    assert (last and last.facts, base and base.facts) == ({"by": "analyst"}, {"by": "operator"})
    (file,) = (tmp_path / "history").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777, _count(database)) == (0o600, 0o700, 1)


def test_a_database_without_tenants_of_erpkits_gets_no_table(database: Database, tmp_path: Path) -> None:
    looks = Looks(database, tmp_path)
    assert looks.keep("inspection", [], _look(1, n=1)) == ""
    foreign = Database(database.conninfo, "foreign", writable=False)
    with foreign:
        last, _ = Looks(foreign, tmp_path).find("inspection")
    assert (last and last.facts, _count(database)) == ({"n": 1}, 0)


def test_what_the_environment_keeps_secret_is_not_kept(
    erp: Planted, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter22-and-more")
    looks = Looks(database, tmp_path)
    secret = Sighting("k", "acme: cannot connect with hunter22-and-more", "warning", NOW)
    looks.keep("inspection", [], Look(NOW, {"dsn": "hunter22-and-more"}, [secret]))
    last, _ = looks.find("inspection")
    assert last
    assert (last.facts, last.sightings[0].text) == ({"dsn": "***"}, "acme: cannot connect with ***")


@pytest.mark.parametrize("is_own", [True, False])
def test_several_writers_at_once_lose_nothing(erp: Planted, database: Database, tmp_path: Path, is_own: bool) -> None:
    writer = Database(database.conninfo, "here", writable=is_own)
    with writer, ThreadPoolExecutor(4) as pool:
        looks = Looks(writer, tmp_path)
        work = [pool.submit(looks.keep, "inspection", [f"tenant {n}"], _look(1, n=n)) for n in range(24)]
        assert [one.result() for one in work] == [""] * 24
        found = [looks.find("inspection", [f"tenant {n}"]).last for n in range(24)]
    assert [one and one.facts for one in found] == [{"n": n} for n in range(24)]


@pytest.mark.parametrize("is_own", [True, False])
def test_where_the_bound_is_full_the_oldest_looks_go_and_the_newest_stays(
    erp: Planted, database: Database, tmp_path: Path, is_own: bool
) -> None:
    writer = Database(database.conninfo, "here", writable=is_own)
    with writer:
        few = Looks(writer, tmp_path, Bounds(looks=3))
        for n in range(6):
            assert few.keep("inspection", [str(n)], _look(60 - n, n=n)) == ""
        assert [few.find("inspection", [str(n)]).last is not None for n in range(6)] == [False] * 3 + [True] * 3
        small = Looks(writer, tmp_path, Bounds(bytes=10))
        small.keep("inspection", ["large"], _look(0, text=os.urandom(2000).hex()))
        assert small.find("inspection", ["large"]).last is not None
        assert [few.find("inspection", [str(n)]).last for n in range(6)] == [None] * 6


def test_a_history_that_cannot_be_used_is_told_in_one_line_and_raises_nothing(
    database: Database, tmp_path: Path
) -> None:
    looks = Looks(database, tmp_path)
    assert looks.keep("inspection", [], _look()) == ""
    (file,) = (tmp_path / "history").iterdir()
    file.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    assert looks.find("inspection") == (None, None)
    assert looks.keep("inspection", [], _look()) == "this look was not kept for the next one: file is not a database"
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    assert looks.find("lag") == (None, None)
    assert Looks(database, blocked).keep("lag", [], _look()).startswith("this look was not kept for the next one: ")


def test_a_damaged_look_is_as_none(database: Database, tmp_path: Path) -> None:
    looks = Looks(database, tmp_path)
    looks.keep("inspection", [], _look())
    (file,) = (tmp_path / "history").iterdir()
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("UPDATE looks SET document = x'00'")
    connection.close()
    assert looks.find("inspection") == (None, None)


def test_of_many_runs_in_the_file_the_oldest_go(database: Database, tmp_path: Path) -> None:
    file = HistoryFile.of(database, tmp_path)
    for n in range(5):
        file.start({"id": f"run {n}", "started_at": NOW + timedelta(minutes=n)}, Bounds(runs=3))
    assert [row["id"] for row in file.runs()] == ["run 4", "run 3", "run 2"]
