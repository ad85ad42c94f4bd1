"""Events as files of JSON lines, and back."""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import PlanChangedError, UsageError
from erpkit.events import (
    Message,
    Selection,
    append,
    export_events,
    import_events,
    list_events,
    plan_import,
)
from erpkit.migrations import Migration
from erpkit.modules import Module, Registry
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Noted:
    number: int
    text: str = ""


BOOK = Registry.of([Module("book", publishes=(Noted,))])


@pytest.fixture(scope="module")
def tenants(shared_database: Database, migrations: tuple[Migration, ...]) -> list[Tenant]:
    acme, bluebird, cobalt = (
        create_tenant(shared_database, migrations, slug) for slug in ("acme", "bluebird", "cobalt")
    )
    with shared_database.tenant_transaction(acme, write=True) as connection:
        append(
            connection,
            [
                Message("book.Noted", {"number": n, "text": "ü\n\u2028"}, UUID(int=n), {"correlation_id": str(n % 2)})
                for n in range(1, 11)
            ],
        )
    with shared_database.tenant_transaction(cobalt, write=True) as connection:
        append(connection, [Message("book.Noted", {"number": 1})])
    return [acme, bluebird, cobalt]


def _events(database: Database, tenant: Tenant) -> list[Any]:
    with database.tenant_transaction(tenant) as connection:
        return [(e.uuid, e.topic, e.payload, e.metadata) for e in reversed(list_events(connection, 1000))]


def test_what_was_exported_is_imported_once_into_another_tenants_log(
    shared_database: Database, tenants: list[Tenant], tmp_path: Path
) -> None:
    acme, bluebird, _ = tenants
    path = tmp_path / "events.jsonl"
    exported = export_events(shared_database, [acme], Selection("book.*"), path)
    assert (exported.event_count, stat.S_IMODE(path.stat().st_mode)) == (10, 0o600)
    assert [file.name for file in tmp_path.iterdir()] == ["events.jsonl"]
    plan = plan_import(shared_database, BOOK, bluebird, path)
    assert (plan.new, plan.known) == ({"book.Noted": 10}, 0)
    with pytest.raises(PlanChangedError, match="nothing was done"):
        import_events(shared_database, BOOK, plan, "import-0")
    assert _events(shared_database, bluebird) == []
    assert import_events(shared_database, BOOK, plan, plan.id) == 10
    assert _events(shared_database, bluebird) == _events(shared_database, acme)
    again = plan_import(shared_database, BOOK, bluebird, path)
    assert (again.new, again.known, again.id == plan.id) == ({}, 10, False)
    assert import_events(shared_database, BOOK, again, again.id) == 0
    assert len(_events(shared_database, bluebird)) == 10


def test_an_export_takes_what_was_selected_and_leaves_no_half_a_file(
    shared_database: Database, tenants: list[Tenant], tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    selection = Selection(first_offset=2, last_offset=8, correlation_id="1")
    assert export_events(shared_database, tenants[:1], selection, path).events == {"acme": 3}
    before = path.read_text()

    def fail(_: int) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        export_events(shared_database, tenants[:1], Selection(), path, fail)
    assert (path.read_text(), [file.name for file in tmp_path.iterdir()]) == (before, ["events.jsonl"])
    with pytest.raises(UsageError, match="cannot write .*: it is a folder"):
        export_events(shared_database, tenants[:1], Selection(), tmp_path)
    with pytest.raises(UsageError, match="cannot write .*: No such file"):
        export_events(shared_database, tenants[:1], Selection(), tmp_path / "none" / "events.jsonl")


GOOD = {"tenant": "acme", "uuid": str(UUID(int=7)), "topic": "book.Noted", "payload": {"number": 1}, "metadata": {}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: Expecting property name"),
        ("[]", "line 2: is not a JSON object"),
        (json.dumps(GOOD | {"topic": "book.Lost"}), "line 2: no module publishes 'book.Lost'"),
        (json.dumps(GOOD | {"payload": {"number": "x"}}), "line 2: Noted.number"),
        (json.dumps(GOOD | {"payload": 1}), "line 2: payload is not a JSON object"),
        (json.dumps(GOOD | {"uuid": "7"}), "line 2: uuid '7' is not a uuid"),
        (json.dumps(GOOD | {"metadata": {"a": 1}}), "line 2: metadata does not map strings to strings"),
        (json.dumps(GOOD | {"tenant": "cobalt"}), "line 2: is of tenant cobalt, those before it of acme"),
    ],
)
def test_a_line_that_is_no_event_is_named_and_nothing_is_imported(
    shared_database: Database, tenants: list[Tenant], tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps(GOOD | {"uuid": str(UUID(int=99))}) + "\n" + line + "\n")
    with pytest.raises(UsageError, match=message):
        plan_import(shared_database, BOOK, tenants[2], path)
    assert len(_events(shared_database, tenants[2])) == 1


def test_a_file_that_is_not_there_is_named(shared_database: Database, tenants: list[Tenant], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read .*none.jsonl"):
        plan_import(shared_database, BOOK, tenants[0], tmp_path / "none.jsonl")
