"""Parameters are declared by a notebook's cell and checked before they are used."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from erpkit.errors import UsageError
from erpkit.runs import check_parameters, read_parameters, validate_parameters

CELL = '''
from datetime import datetime

tenants: list[str] = []  # tenants, by name
dry_run: bool = True  # show the plan only
limit: int | None = None
mode: Literal["fast", "safe"] = "safe"
since: date = "2026-01-01"
ratio = 0.5
query: str = """
select 1
"""  # may take several lines
'''


def test_name_type_default_and_help_come_from_the_cell() -> None:
    parameters = {p.name: p for p in read_parameters(CELL)}
    assert list(parameters) == ["tenants", "dry_run", "limit", "mode", "since", "ratio", "query"]
    assert (parameters["dry_run"].annotation, parameters["dry_run"].default, parameters["dry_run"].help) == (
        "bool", True, "show the plan only",
    )  # fmt: skip
    assert parameters["ratio"].annotation == "float"
    assert parameters["query"].help == "may take several lines"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tenants", "acme,bluebird", ["acme", "bluebird"]),
        ("tenants", '["acme"]', ["acme"]),
        ("tenants", "", []),
        ("dry_run", "false", False),
        ("limit", "10", 10),
        ("mode", "fast", "fast"),
        ("since", "2026-02-03", "2026-02-03"),
        ("ratio", "1.5", 1.5),
    ],
)
def test_text_from_a_command_line_becomes_a_value(name: str, text: str, value: object) -> None:
    assert validate_parameters(read_parameters(CELL), {name: text}) == {name: value}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dry_run", "flase"),
        ("limit", "ten"),
        ("mode", "reckless"),
        ("since", "yesterday"),
        ("ratio", "half"),
        ("tenants", "[1"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"parameter {name} = .* is not of type"):
        validate_parameters(read_parameters(CELL), {name: text})


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="no parameter 'dryrun'; did you mean dry_run"):
        validate_parameters(read_parameters(CELL), {"dryrun": "false"})


@pytest.mark.parametrize("value", ["postgresql://me:secret@host/db", "host=db password=secret"])
def test_a_password_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(UsageError, match="holds a password") as caught:
        validate_parameters(read_parameters(CELL), {"query": value})
    assert "secret" not in str(caught.value)


def test_an_annotation_that_would_have_to_be_run_is_refused() -> None:
    (parameter,) = read_parameters("x: __import__('os').system('true') = 1")
    with pytest.raises(UsageError, match="not a type"):
        validate_parameters([parameter], {"x": "1"})


def test_a_default_that_is_no_literal_is_refused() -> None:
    with pytest.raises(UsageError, match="parameter x: its default must be a literal"):
        read_parameters("x: int = 1 + len('a')")


def test_inside_a_notebook_text_is_converted_and_a_wrong_value_refused() -> None:
    namespace: dict[str, Any] = {
        "__annotations__": {"dry_run": bool, "since": datetime | None, "tenants": list[str]},
        "dry_run": "false", "since": "2026-01-02T00:00:00+00:00", "tenants": "acme",
    }  # fmt: skip
    check_parameters(namespace)
    assert (namespace["dry_run"], namespace["since"], namespace["tenants"]) == (
        False, datetime(2026, 1, 2, tzinfo=UTC), ["acme"],
    )  # fmt: skip
    namespace["dry_run"] = "flase"
    with pytest.raises(UsageError, match="dry_run = 'flase' is not of type bool"):
        check_parameters(namespace)


def test_a_date_stays_a_date_that_papermill_can_write() -> None:
    assert validate_parameters(read_parameters(CELL), {"since": date(2026, 3, 4)}) == {"since": "2026-03-04"}
