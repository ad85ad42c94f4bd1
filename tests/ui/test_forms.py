"""The form of a notebook's parameters, by its fields' values, on the sample ERP."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import ipywidgets
import pytest

from erpkit.database import Database
from erpkit.errors import UsageError
from erpkit.modules import Registry
from erpkit.runs import open_notebook
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
dry_run: bool = True
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
    return str(shown.problem.value)


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
        "uuids": (ipywidgets.TagsInput, ["a", "b"]),
        "on_error": (ipywidgets.Dropdown, "stop"),
        "workers": (ipywidgets.IntText, 5),
        "threshold": (ipywidgets.FloatText, 0.25),
        "day": (ipywidgets.DatePicker, date(2026, 2, 1)),
        "since": (ipywidgets.DatetimePicker, noon),
        "dry_run": (ipywidgets.Checkbox, False),
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
    assert list(shown.fields) == [line.split(":")[0] for line in CELL.splitlines()[5:]]
    assert shown.fields["workers"].input.value == 4  # the variable, as it is now
    assert shown.fields["day"].input.value == date(2026, 1, 31)
    for help_ in ("tenants to look at", "what to do", "side by side", "Decimal"):
        assert help_ in text(shown.widget)


def test_the_newest_version_of_the_parameters_cell_counts() -> None:
    older = 'tenant: str = ""  # once\nlimit: int = 1  # of old'
    newer = 'tenant: str = ""  # now\nlimit: int = 1  # of late'
    assert "of late" in text(Form(executed(older, newer)).widget)


def test_what_is_not_of_the_type_is_told_in_one_line_and_the_variable_stays() -> None:
    namespace = executed(CELL)
    shown = Form(namespace)
    fill(shown, "rate", "fast")
    assert "parameter rate = &#x27;fast&#x27; is not of type float | None" in problem(shown)
    assert (namespace["rate"], problem(shown).count("\n"), shown.run_below.disabled) == (None, 0, True)
    fill(shown, "topic", "postgresql://erp:s3cret@db/erp")
    fill(shown, "rate", "3")
    assert "holds a password" in problem(shown)
    assert "s3cret" not in problem(shown)
    assert namespace["topic"] == "*"
    fill(shown, "topic", "sales.*")
    assert (problem(shown), namespace["topic"], shown.run_below.disabled) == ("", "sales.*", False)


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
    assert "tenants: there is no &#x27;acne&#x27;; did you mean acme?" in problem(shown)
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
    import nbformat

    cells = nbformat.read(open_notebook(name).path, as_version=4).cells
    (cell,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    shown = Form(executed(cell))
    assert list(shown.fields) == [parameter.name for parameter in open_notebook(name).parameters]
    assert problem(shown) == ""


def test_where_nobody_watches_there_is_no_form() -> None:
    assert form(executed(CELL)) is None
