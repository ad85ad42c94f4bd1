"""The form of a notebook's parameters, by its fields' values, on the sample ERP."""

from __future__ import annotations

import ast
import html
import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import ipywidgets
import nbformat
import pytest

from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.modules import Registry
from erpkit.runs import list_notebooks, open_notebook
from erpkit.sample.demo import Planted
from erpkit.ui import Form, form
from tests.conftest import plant_copy

CELL = """
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

tenants: list[str] = []  # tenants to look at
tenant: str = ""  # the one to look into
topic: str = "*"  # pattern of topics
handlers: list[str] = []
module: str = ""
uuids: list[str] = []
on_error: Literal["continue", "stop"] = "continue"  # what to do
workers: int = 3  # side by side
threshold: float = 0.0
rate: float | None = None  # at most
share: Decimal = "0.5"
day: date = "2026-01-31"
since: datetime | None = None
options: dict = {}
quick: bool = True
dry_run: bool = True
confirm: str = ""
"""


@pytest.fixture(scope="module")
def erp(shared_database: Database, registry: Registry) -> Planted:
    return plant_copy(shared_database, registry)


@pytest.fixture(autouse=True)
def environment(erp: Planted, shared_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", shared_database.conninfo)
    monkeypatch.setenv("ERPKIT_MODULES", "erpkit.sample")


def executed(*cells: str) -> dict[str, Any]:
    """Return the variables of a kernel that has run these cells."""
    namespace: dict[str, Any] = {"In": ["", "%load_ext erpkit", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


def fill(shown: Form, name: str, value: Any) -> None:
    shown.fields[name].input.value = value


def problem(shown: Form) -> str:
    """Return what the fields say is wrong with them."""
    return "".join(f"{name}: {field.error.value}\n" for name, field in shown.fields.items() if field.error.value)


def text(widget: Any) -> str:
    """Return all the text in a widget and what is in it."""
    return str(getattr(widget, "value", "")) + "".join(text(child) for child in getattr(widget, "children", ()))


def test_each_type_has_its_field_and_the_notebook_gets_a_value_of_that_type() -> None:
    namespace = executed(CELL)
    shown = Form(namespace)
    noon = datetime(2026, 2, 1, 12, tzinfo=UTC)
    wanted: dict[str, tuple[type, Any]] = {
        "tenant": (ipywidgets.Dropdown, "acme"),
        "topic": (ipywidgets.Combobox, "billing.*"),
        "uuids": (ipywidgets.TagsInput, [str(UUID(int=1)), str(UUID(int=2))]),
        "on_error": (ipywidgets.Dropdown, "stop"),
        "workers": (ipywidgets.IntText, 5),
        "threshold": (ipywidgets.FloatText, 0.25),
        "day": (ipywidgets.DatePicker, date(2026, 2, 1)),
        "since": (ipywidgets.DatetimePicker, noon),
        "quick": (ipywidgets.Checkbox, False),
    }
    for name, (kind, value) in wanted.items():
        assert type(shown.fields[name].input) is kind, name
        fill(shown, name, value)
    for name, (_, value) in wanted.items():
        assert namespace[name] == value, name
    fill(shown, "rate", "2.5")
    fill(shown, "options", '{"a": 1}')
    assert (namespace["rate"], namespace["options"]) == (2.5, {"a": 1})
    fill(shown, "rate", " ")
    assert namespace["rate"] is None
    assert problem(shown) == ""


def test_a_form_shows_what_the_parameters_cell_says() -> None:
    shown = Form(executed(CELL, "workers: int = 4", "n: int = len('abc')"))
    names = [line.split(":")[0] for line in CELL.splitlines()[5:]]
    assert list(shown.fields) == names[:-2]  # to apply, there are buttons
    assert shown.fields["workers"].input.value == 4  # the variable, as it is now
    assert shown.fields["day"].input.value == date(2026, 1, 31)
    for help_ in ("tenants to look at", "what to do", "side by side", "Decimal"):
        assert help_ in text(shown.widget)


def test_the_newest_version_of_the_parameters_cell_counts() -> None:
    older = 'tenant: str = ""  # once\nlimit: int = 1  # of old'
    newer = 'tenant: str = ""  # now\nlimit: int = 1  # of late'
    assert "of late" in text(Form(executed(older, newer)).widget)


def test_what_is_wrong_is_told_at_each_field_in_words_and_the_variables_stay() -> None:
    namespace = executed(CELL)
    shown = Form(namespace)
    fill(shown, "rate", "fast")
    fill(shown, "topic", "postgresql://erp:s3cret@db/erp")
    fill(shown, "workers", 0)
    fill(shown, "threshold", 7.0)
    fill(shown, "uuids", ["17"])
    fill(shown, "options", "[1]")
    for name, words in {
        "rate": "&#x27;fast&#x27; is not a number",
        "topic": "holds a password",
        "workers": "0 is too small: the least is 1",
        "threshold": "7.0 is not a share",
        "uuids": "&#x27;17&#x27; is not an id",
        "options": "is not a JSON object",
    }.items():
        assert words in shown.fields[name].error.value, name
    assert "s3cret" not in problem(shown)
    assert [namespace[name] for name in ("rate", "topic", "workers")] == [None, "*", 3]
    assert shown.run_below.disabled
    assert "Not run: see topic, uuids, workers" in shown.summary.value
    for name, value in {
        "rate": "3",
        "topic": "sales.*",
        "workers": 2,
        "threshold": 0.0,
        "uuids": [],
        "options": "{}",
    }.items():
        fill(shown, name, value)
    assert (problem(shown), namespace["topic"], shown.run_below.disabled) == ("", "sales.*", False)


def test_a_topic_that_nobody_publishes_is_told_with_what_was_probably_meant() -> None:
    shown = Form(executed(CELL))
    fill(shown, "topic", "biling.*")
    assert "there is no topic &#x27;biling.*&#x27;: did you mean billing.*" in problem(shown)
    fill(shown, "topic", "sales.Order*")
    assert problem(shown) == ""


def test_values_that_do_not_go_together_are_told_at_the_one_to_change_and_hold_once_they_do() -> None:
    namespace = executed("first_offset: int | None = None\nlast_offset: int | None = None")
    shown = Form(namespace)
    fill(shown, "first_offset", "9")
    fill(shown, "last_offset", "4")
    assert "before the first offset, 9" in shown.fields["last_offset"].error.value
    fill(shown, "first_offset", "2")
    assert (problem(shown), namespace["first_offset"], namespace["last_offset"]) == ("", 2, 4)


def test_what_the_form_set_outlives_run_all_until_the_cell_says_something_else() -> None:
    cell = "tenants: list[str] = []\nworkers: int = 3"
    namespace = executed(cell)
    shown = Form(namespace)
    shown.fields["tenants"].entry.value = "acme"
    fill(shown, "workers", 5)
    assert "tenants = acme; workers = 5" in shown.summary.value
    assert "press Run" in shown.summary.value
    exec(cell, namespace)  # as Run All does
    again = Form(namespace)
    assert (namespace["tenants"], namespace["workers"]) == (["acme"], 5)
    assert (again.fields["tenants"].input.value, again.fields["workers"].input.value) == (["acme"], 5)
    assert "tenants = acme; workers = 5" in again.summary.value
    assert "press Run" not in again.summary.value
    exec(cell.replace("3", "8"), namespace)
    again = Form(namespace)
    assert (namespace["tenants"], namespace["workers"]) == (["acme"], 8)
    again.reset()
    assert (namespace["tenants"], again.fields["tenants"].input.value) == ([], [])
    exec(cell, namespace)
    assert "All values are the notebook's own" in Form(namespace).summary.value


def test_choices_that_would_be_refused_are_not_offered_and_a_typed_one_is_told_why(erp: Planted) -> None:
    shown = Form(executed(CELL), kinds={"tenants": "active", "tenant": "inactive", "handlers": "replayable"})
    assert erp.suspended not in shown.fields["tenants"].entry.options
    assert [slug for _, slug in shown.fields["tenant"].input.options] == ["", erp.suspended]
    assert "inventory.on_order_placed" not in shown.fields["handlers"].entry.options
    assert "billing.on_invoice_created" in shown.fields["handlers"].entry.options
    shown.fields["tenants"].entry.value = erp.suspended
    assert f"{erp.suspended} is suspended" in problem(shown)
    assert erp.suspended not in form_of("run_migrations").fields["tenants"].entry.options
    assert erp.suspended not in [slug for _, slug in form_of("runbooks/tenant_behind").fields["tenant"].input.options]
    shown.fields["tenants"].entry.value = ""
    fill(shown, "handlers", ["inventory.on_order_place"])
    assert "did you mean inventory.on_order_placed?" in problem(shown)
    fill(shown, "handlers", ["inventory.on_order_placed"])
    assert "inventory.on_order_placed has side effects" in problem(shown)


def test_rare_fields_are_folded_until_one_of_them_is_set() -> None:
    namespace = executed("limit: int = 1\nworkers: int = 3")
    shown = Form(namespace, rare=["workers"])
    assert (shown.folded.titles, shown.folded.selected_index) == (("More: workers",), None)
    fill(shown, "workers", 4)
    assert Form(namespace, rare=["workers"]).folded.selected_index == 0


def test_a_time_is_shown_with_its_zone() -> None:
    typed = "since: datetime | None = None  # recorded at or after, with time zone: 2026-01-31T08:00:00+00:00"
    shown = Form(executed(f"from datetime import datetime\n{typed}"))
    assert "recorded at or after</span>" in str([one.value for one in shown.fields["since"].row.children[0].children])
    assert "in this browser&#x27;s time zone" in shown.fields["since"].below.value.replace("'", "&#x27;")
    fill(shown, "since", datetime(2026, 2, 1, 12, tzinfo=timezone(timedelta(hours=2))))
    assert "2026-02-01 10:00 UTC" in shown.fields["since"].below.value


def test_pickers_list_the_real_tenants_topics_handlers_and_modules(erp: Planted) -> None:
    shown = Form(executed(CELL))
    names = [slug for _, slug in shown.fields["tenant"].input.options]
    assert names == ["", *erp.tenants]
    assert list(shown.fields["tenants"].entry.options) == list(erp.tenants)
    assert {"*", "billing.*", "sales.OrderPlaced"} <= set(shown.fields["topic"].input.options)
    assert "billing.on_invoice_created" in shown.fields["handlers"].entry.options
    assert [name for _, name in shown.fields["module"].input.options] == [
        "",
        "catalog",
        "sales",
        "inventory",
        "billing",
    ]


def test_names_are_added_one_by_one_and_one_that_is_none_is_refused_with_a_hint() -> None:
    namespace = executed(CELL)
    shown = Form(namespace)
    tenants = shown.fields["tenants"]
    for name in ("acme", "bluebird", "acme"):
        tenants.entry.value = name
    assert (namespace["tenants"], tenants.entry.value) == (["acme", "bluebird"], "")
    tenants.entry.value = "acne"
    assert "there is no tenant &#x27;acne&#x27;: did you mean acme?" in problem(shown)
    assert namespace["tenants"] == ["acme", "bluebird"]
    tenants.input.value = ["bluebird"]
    assert (namespace["tenants"], problem(shown)) == (["bluebird"], "")


def test_a_form_is_of_use_without_database_and_modules_and_says_what_it_could_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ERPKIT_DATABASE", "host=/nowhere dbname=erp")
    monkeypatch.setenv("ERPKIT_MODULES", "no.such.toml")
    namespace = executed(CELL)
    shown = Form(namespace)
    assert "tenants cannot be listed" in text(shown.widget)
    shown.fields["tenants"].entry.value = "anybody"
    assert namespace["tenants"] == ["anybody"]


def test_a_wrong_value_in_the_parameters_cell_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="parameter workers = 'many' is not of type int"):
        Form(executed(CELL.replace("workers: int = 3", "workers: int = 'many'")))


@pytest.mark.parametrize("name", ["replay_events", "run_migrations", "inspect_tenants", "check_modules"])
def test_the_notebooks_own_declarations_make_a_form(name: str) -> None:
    cells = nbformat.read(open_notebook(name).path, as_version=4).cells
    (cell,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    shown = Form(executed(cell))
    declared = [parameter.name for parameter in open_notebook(name).parameters]
    assert list(shown.fields) == [name for name in declared if name not in ("dry_run", "confirm")]
    assert problem(shown) == ""


def test_where_nobody_watches_there_is_no_form() -> None:
    assert form(executed(CELL)) is None


# A value of each parameter that is refused at its field, and what is said of it.
REFUSED: dict[str, tuple[Any, str]] = {
    "accept": (["loose"], "did you mean loses?"),
    "canaries": (["acne"], "did you mean acme?"),
    "correlation_id": ("0198c0de-7a1b-7c3d", "is not an id"),
    "cut": (["slaes->catalog"], "did you mean sales?"),
    "database": ("env:ERPKIT_DATABSE", "did you mean ERPKIT_DATABASE?"),
    "days": (0, "the least is 1"),
    "export_to": ("/no/such/events.jsonl", "there is no folder /no/such"),
    "file": ("/no/such.tenant", "there is no file"),
    "first_offset": ("-1", "the least is 0"),
    "folder": ("/no/such", "there is no folder"),
    "handler": ("biling.*", "there is no handler"),
    "handlers": (["billing.on_invoice_craeted"], "did you mean billing.on_invoice_created?"),
    "health_file": ("/no/such.json", "there is no file"),
    "impact": ("slaes", "did you mean sales?"),
    "last_offset": ("1.5", "is not a whole number"),
    "layers": ("sales > ", "a name is missing"),
    "limit": (0, "the least is 1"),
    "lock_timeout": (0.0, "give a number above 0"),
    "long": (-1, "the least is 0"),
    "max_age": (-1, "the least is 0"),
    "max_lag": (-1, "the least is 0"),
    "mend": ("UPDATE {shema}.rates SET euros = 1", "did you mean {schema}?"),
    "modules": ("erpkit.samples", "did you mean erpkit.sample?"),
    "notebook": ("inspect_tenant", "did you mean inspect_tenants?"),
    "rate": ("nan", "give a number above 0"),
    "resume": ("17", "is not an id"),
    "send_to": ("brocker", "did you mean broker?"),
    "side_effects": (["billing.on_invoice_created"], "has no side effects"),
    "since": ("/no/such.json", "there is no file"),
    "slug": ("New Tenant", "did you mean new_tenant?"),
    "snapshot": ("/no/such/monday.json", "there is no folder"),
    "statement_timeout": (1e9, "the most is 2,147,483"),
    "table": ("sales_ordres", "did you mean sales_orders"),
    "tenant": ("acne", "there is no tenant"),
    "tenants": (["acne"], "did you mean acme?"),
    "threshold": (7.0, "is not a share"),
    "topic": ("biling.*", "did you mean billing.*"),
    "uuids": (["17"], "is not an id"),
    "workers": (0, "the least is 1"),
}
FREE = {"cause", "name"}  # these can be any text: a part of an error, and a name for people
CHOSEN = (ipywidgets.Checkbox, ipywidgets.DatetimePicker, ipywidgets.Dropdown)  # nothing else can be entered


def form_of(notebook: str) -> Form:
    """Return the form of one of erpkit's notebooks, with the choices that it asks for."""
    cells = [cell.source for cell in nbformat.read(open_notebook(notebook).path, as_version=4).cells]
    (call,) = [ast.parse(cell).body[-1].value for cell in cells if "ui.form(" in cell]
    kinds = {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg != "rare"}
    declared = next(cell for cell in cells if re.match(r"(from .*\n+)*\w+: ", cell))
    return Form(executed(declared), kinds=kinds)


@pytest.mark.parametrize("notebook", [name for name in list_notebooks() if open_notebook(name).parameters])
def test_each_parameter_of_each_notebook_is_checked_at_its_field(notebook: str) -> None:
    shown = form_of(notebook)
    assert problem(shown) == ""
    for name, field in shown.fields.items():
        if name in FREE or isinstance(field.input, CHOSEN):
            continue
        value, words = REFUSED[name]
        before = field.input.value
        fill(shown, name, value)
        assert words in html.unescape(field.error.value), name
        fill(shown, name, before)
        assert problem(shown) == "", name


def test_what_is_wrong_only_beside_another_value_is_told_and_what_another_one_excuses_is_not(erp: Planted) -> None:
    replay = form_of("replay_events")
    fill(replay, "again", True)
    assert "say in send_to where to" in problem(replay)
    fill(replay, "again", False)
    fill(replay, "topic", "orders")
    fill(replay, "watermill", True)
    assert problem(replay) == ""
    fill(replay, "resume", str(UUID(int=1)))
    assert "watermill is set, and one excludes the other" in problem(replay)
    migrations = form_of("run_migrations")
    fill(migrations, "canaries", ["acme"])
    fill(migrations, "tenants", ["b*"])
    assert "not among the tenants: acme" in problem(migrations)
    fill(migrations, "tenants", ["b*", "ac*"])
    assert problem(migrations) == ""
    runbook = form_of("runbooks/tenant_behind")
    fill(runbook, "rehearse", False)
    assert "needed where nothing is rehearsed" in problem(runbook)
    fill(runbook, "tenant", erp.behind)
    assert problem(runbook) == ""
    history = form_of("run_history")
    fill(history, "database", "service=other")
    fill(history, "notebook", "inspect_tenant")
    assert problem(history) == ""
