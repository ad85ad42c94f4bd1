"""The door as a person finds it: what tab completion offers, and what an object says of itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.formatters import PlainTextFormatter
from IPython.core.interactiveshell import InteractiveShell

import erpkit
from erpkit import Erp
from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.modules import Registry
from erpkit.modules.registry import SAMPLE_GROUP
from tests.conftest import plant_copy

PARTS = ("tenants", "events", "migrations", "modules", "queries", "runs")
PLUMBING = {
    "broker", "candidates", "compose", "consume", "database", "find", "foreign_states", "forward", "has_event_log",
    "installation", "is_foreign", "no_tenants", "one", "own", "recorder",
    "registry", "settings", "worker",
}  # fmt: skip


@pytest.fixture
def unread() -> Erp:
    """A door to a database that does not answer: whatever looks at it fails."""
    return erpkit.open("postgresql://nobody@127.0.0.1:1/nothing", modules=SAMPLE_GROUP)


@pytest.fixture(scope="module")
def door(shared_database: Database, registry: Registry) -> Iterator[Erp]:
    plant_copy(shared_database, registry, 4)
    with erpkit.open(shared_database.conninfo, modules=SAMPLE_GROUP) as opened:
        yield opened


def test_tab_completion_offers_what_a_user_wants_and_no_plumbing(door: Erp) -> None:
    plan, letters = door.migrations.plan(), door.events.dead_letters()
    objects = [door, *(getattr(door, part) for part in PARTS), door.tenants["acme"], plan, letters]
    offered = {type(one).__name__: {name for name in dir(one) if not name.startswith("_")} for one in objects}
    assert {name: found & PLUMBING for name, found in offered.items() if found & PLUMBING} == {}
    assert offered["Erp"] >= {"close", "query", "target", *PARTS}
    assert offered["ErpTenant"] == {"ask", "inspect", "send", "tenant", "transaction"}
    assert offered["Plan"] >= {"apply", "again", "id", "summary", "findings", "tables"}
    assert offered["Plan"].isdisjoint({"make", "run", "look", "can_stop", "record", "unit"})


def test_only_schema_is_replaced_in_a_mend_of_dead_letters_and_other_braces_stay(door: Erp) -> None:
    letters = door.events.dead_letters()
    (slug,) = letters.affected
    plan = letters.mend("""UPDATE {schema}.sales_orders SET hotfix = '{"a": [1]}'""").record
    schema = door.tenants[slug].tenant.schema
    assert plan.statements == {slug: f"""UPDATE {schema}.sales_orders SET hotfix = '{{"a": [1]}}'"""}


def test_ipython_completes_what_dir_names(unread: Erp) -> None:
    completer = InteractiveShell(user_ns={"erp": unread}).Completer
    for text, wanted in (
        ("erp.", "query"),
        ("erp.events.", "lag"),
        ("erp.runs.", "history"),
        ('erp.tenants["a"].', "ask"),
    ):
        with provisionalcompleter():
            found = {one.text for one in completer.completions(text, len(text))}
        assert wanted in found
        assert found & PLUMBING == set()


def test_whatever_tab_completion_offers_says_what_it_is_for(unread: Erp) -> None:
    for part in (unread, *(getattr(unread, name) for name in PARTS)):
        for name in (name for name in dir(part) if not name.startswith("_")):
            assert inspect.getdoc(inspect.getattr_static(type(part), name)), f"{type(part).__name__}.{name}"


@pytest.mark.parametrize("part", ["", *PARTS])
def test_a_repr_is_one_short_line_and_reads_no_database(part: str, unread: Erp) -> None:
    one = getattr(unread, part) if part else unread
    shown = repr(one)
    assert len(shown) < 100
    assert "object at 0x" not in shown
    method = next(
        getattr(one, name) for name in dir(one) if name in {"close", "inspect", "lag", "plan", "check", "history"}
    )
    assert shown in repr(method)


def test_printed_and_in_ipython_a_part_shows_what_it_has(door: Erp) -> None:
    assert "acme, " not in str(door.tenants)
    assert {"acme", "bluebird"} <= set(str(door.tenants).split())
    assert PlainTextFormatter()(door.tenants) == str(door.tenants)
    assert "to look at" in PlainTextFormatter()(door)
    assert PlainTextFormatter()([door.tenants]) == f"[{door.tenants!r}]"


@pytest.mark.parametrize("name", ["a*", "acm?", "[a]cme"])
def test_a_pattern_is_not_taken_for_the_name_of_one_tenant(name: str, door: Erp) -> None:
    for look in (lambda: door.tenants[name], lambda: door.events.list(name), lambda: door.tenants.drift(against=name)):
        with pytest.raises(UsageError, match="is a pattern: name one tenant, such as acme"):
            look()
    assert name not in door.tenants


def test_a_name_that_is_no_text_is_told_in_one_line(door: Erp) -> None:
    for look in (lambda: door.tenants[3], lambda: door.tenants.inspect([3]), lambda: door.events.list(3)):  # type: ignore[index, list-item, arg-type]
        with pytest.raises(UsageError, match="looked up by its name, and 3 is not a text"):
            look()
    assert 3 not in door.tenants  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("argument", ["database", "modules", "tenants_query", "broker", "home"])
def test_open_names_the_argument_that_is_no_text(argument: str) -> None:
    with pytest.raises(UsageError, match=f"the argument {argument} is int, and has to be a text"):
        erpkit.open(**{argument: 3})  # type: ignore[arg-type]


def test_open_names_the_argument_that_cannot_be_meant_and_not_a_variable() -> None:
    with pytest.raises(UsageError, match=r"^the argument database is not a libpq connection string") as error:
        erpkit.open("garbage password=secret")
    assert "secret" not in str(error.value)
    with pytest.raises(UsageError, match=r"^the argument broker is not a broker's URL"):
        erpkit.open(broker="garbage")


@pytest.mark.parametrize("place", ["%(since)s", "%s"])
def test_a_place_for_a_value_without_params_is_named(place: str, door: Erp) -> None:
    with pytest.raises(
        UsageError, match=re.escape(f"{place} in the query is a place for a value, and there are no params")
    ):
        door.query(f"SELECT * FROM sales_orders WHERE placed_on >= {place}")
    assert len(door.query("SELECT '%(since)s' AS text").frame) == 3  # one of the four is suspended
    with pytest.raises(UsageError) as error:
        door.query("SELECT 'a' LIKE '%s' FROM FROM")
    assert "place for a value" not in str(error.value)
