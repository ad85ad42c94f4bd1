"""Parameters are declared by a notebook's cell and checked before they are used."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from erpkit.errors import UsageError
from erpkit.runs import check_parameters, read_parameters, validate_parameters
from erpkit.runs.parameters import may_write, python_values, read_cells

pytestmark = pytest.mark.usefixtures("warm_runs")

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


def test_help_is_the_comment_at_the_ends_of_a_value_or_above_it_or_inside_it() -> None:
    cell = """
# how the run
# is done
mode: Literal["a", "b"] = "a"
topics: list[str] = [  # topics to take
    "billing.*",  # the books
]
table: dict = {
    "a": 1,  # one
    "b": 2,  # two
}
text: str = "# no comment"
"""
    assert [parameter.help for parameter in read_parameters(cell)] == [
        "how the run is done", "topics to take", "one two", "",
    ]  # fmt: skip


def test_types_without_a_literal_take_a_call_of_literals_as_default() -> None:
    cell = "since: date | None = date(2026, 1, 2)\nrate: Decimal = Decimal('1.50')\nat: Optional[datetime] = None"
    parameters = read_parameters(cell)
    assert [parameter.default for parameter in parameters] == [date(2026, 1, 2), Decimal("1.50"), None]
    given = {"since": "none", "rate": "2.10", "at": "2026-01-02T03:04:05+00:00"}
    assert validate_parameters(parameters, given) == {"since": None, "rate": "2.10", "at": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("n: int", "parameter n must be given: -p n int"),
        ("n: int = 'one'", "parameter n = 'one' is not of type int"),
        (
            "d: date = date(2026, 13, 1)",
            r"parameter d: its default date\(2026, 13, 1\) cannot be made: month must be in",
        ),
        ("n: int = ", "not valid Python: line 1"),
        ("dsn: str = 'postgresql://me:hunter22@host/db'", "parameter dsn holds a password"),
        ("dsn = 'postgresql://me:hunter22@host/' + name", "parameter dsn holds a password"),
    ],
)
def test_a_wrong_declaration_is_refused_by_name(cell: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        validate_parameters(read_parameters(cell), {})
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("tenants", "acme,bluebird", ["acme", "bluebird"]),
        ("tenants", '["acme"]', ["acme"]),
        ("tenants", "", []),
        ("dry_run", "false", False),
        ("limit", "10", 10),
        ("limit", "none", None),
        ("limit", "", None),
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
        ("dry_run", ""),
        ("limit", "ten"),
        ("limit", "1.5"),
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


@pytest.mark.parametrize("value", ["flase", "yes", "migrate", "Migrate-2b0323b455", "--help"])
def test_what_cannot_be_the_id_of_a_plan_is_refused_as_confirmation(value: str) -> None:
    parameters = read_parameters('confirm: str = ""  # id of the plan')
    with pytest.raises(UsageError, match=f"parameter confirm = '{value}' is not the id of a plan"):
        validate_parameters(parameters, {"confirm": value})
    assert validate_parameters(parameters, {"confirm": "migrate-2b0323b455"}) == {"confirm": "migrate-2b0323b455"}


@pytest.mark.parametrize(
    ("given", "writes"),
    [
        ({}, False),
        ({"dry_run": False}, True),
        ({"confirm": "drop-0123456789"}, True),
        ({"rehearse": False}, True),
        ({"n": 2}, False),
    ],
)
def test_a_run_may_write_when_it_is_no_dry_run_and_no_rehearsal_or_confirms_a_plan(
    given: dict[str, Any], writes: bool
) -> None:
    parameters = read_parameters('dry_run = True\nrehearse = True\nconfirm = ""\nn = 1')
    assert may_write(parameters, given) is writes
    assert may_write(read_parameters("dry_run: bool = not WRITE"), {})


def test_an_annotation_that_would_have_to_be_run_is_refused() -> None:
    (parameter,) = read_parameters("x: __import__('os').system('true') = 1")
    with pytest.raises(UsageError, match="not a type"):
        validate_parameters([parameter], {"x": "1"})


ODD = """
%load_ext autoreload
files = !ls
from pathlib import Path
root = Path("x")
seconds = 60 * 60
size: int = 2 * 1024
color: Color = Color.RED
limit: int = None
pair = (1, 2)
nothing = None
twice = 1
twice = 2
key = os.environ["KEY"]
password = getpass()
x: int  # must be given
day: datetime.date = datetime.date(2026, 1, 1)
"""


def test_defaults_that_only_the_kernel_can_evaluate_keep_no_notebook_from_running() -> None:
    parameters = {one.name: one for one in read_parameters(ODD)}
    assert validate_parameters([*parameters.values()], {"x": "3"}) == {"x": 3}
    assert parameters["x"].is_required
    assert (parameters["x"].shown, parameters["root"].shown) == ("x: int  (must be given)", "root = Path('x')")
    given = {"x": "3", "size": "4", "limit": "5", "day": "2026-02-03", "twice": "7"}
    assert validate_parameters([*parameters.values()], given) == {
        "x": 3, "size": 4, "limit": 5, "day": "2026-02-03", "twice": 7,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["root", "seconds", "pair", "nothing", "key", "files"])
def test_what_has_no_type_is_refused_when_it_is_set(name: str) -> None:
    with pytest.raises(UsageError, match=rf"parameter {name} cannot be set, .* write its type, {name}: TYPE = "):
        validate_parameters(read_parameters(ODD), {"x": "3", name: "1"})


@pytest.mark.parametrize("cell", ["n: os.PathLike = '1'", "n: list[3] = []", "n: Color = Color.RED"])
def test_an_annotation_that_is_no_parameters_type_is_refused_only_when_it_is_set(cell: str) -> None:
    assert validate_parameters(read_parameters(cell), {}) == {}
    with pytest.raises(UsageError, match="is not a type that a parameter can have"):
        validate_parameters(read_parameters(cell), {"n": "1"})


def test_of_two_parameters_cells_the_second_may_be_there_but_its_names_cannot_be_set() -> None:
    parameters = read_cells(["a: int = 1\nb: int = 1", "b: int = 2"])
    assert validate_parameters(parameters, {"a": "3"}) == {"a": 3}
    with pytest.raises(UsageError, match="parameter b cannot be set: a second cell tagged parameters assigns it again"):
        validate_parameters(parameters, {"b": "3"})


def test_what_has_no_literal_arrives_as_what_it_is() -> None:
    cell = (
        "day: date = date(2026, 1, 1)\nat: datetime | None = None\nrate: Decimal = Decimal('1')\ndays: list[date] = []"
    )
    given = {"day": "2026-02-03", "at": "2026-01-02T03:04:05+01:00", "rate": "1.50", "days": "2026-02-03"}
    parameters = read_parameters(cell)
    values = validate_parameters(parameters, given)
    assert json.loads(json.dumps(values)) == values
    assert python_values(parameters, values) == {
        "day": date(2026, 2, 3), "at": datetime.fromisoformat(given["at"]), "rate": Decimal("1.50"),
        "days": [date(2026, 2, 3)],
    }  # fmt: skip


def test_nan_and_infinity_are_kept_where_a_float_is_declared_and_refused_elsewhere() -> None:
    parameters = read_parameters("x: float = 0.0\ny: list[float] = []\nz: dict = {}")
    values = validate_parameters(parameters, {"x": "nan", "y": "inf,-inf,1"})
    assert json.loads(json.dumps(values, allow_nan=False)) == {"x": "nan", "y": ["inf", "-inf", 1.0]}
    assert repr(python_values(parameters, values)) == "{'x': nan, 'y': [inf, -inf, 1.0]}"
    with pytest.raises(UsageError, match="parameter z holds NaN or infinity"):
        validate_parameters(parameters, {"z": '{"a": NaN}'})


def test_a_time_without_a_zone_is_refused_where_one_is_needed() -> None:
    parameters = read_parameters("since: AwareDatetime | None = None\nlocal: datetime | None = None")
    with pytest.raises(UsageError, match="parameter since = 2026-01-31T08:00 has no time zone: add one"):
        validate_parameters(parameters, {"since": "2026-01-31T08:00"})
    given = {"since": "2026-01-31T08:00Z", "local": "2026-01-31T08:00"}
    assert validate_parameters(parameters, given) == {"since": "2026-01-31T08:00:00Z", "local": "2026-01-31T08:00:00"}


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


def test_inside_a_notebook_a_name_that_no_cell_declares_is_refused() -> None:
    declared = "import os\ndry_run: bool = True"
    namespace: dict[str, Any] = {
        "__annotations__": {"dry_run": bool}, "dry_run": True, "dryrun": "false",
        "In": ["", declared, '# Parameters\ndryrun = "false"\n', "erpkit.check_parameters(globals())"],
    }  # fmt: skip
    with pytest.raises(UsageError, match="no parameter 'dryrun'; did you mean dry_run"):
        check_parameters(namespace)
    namespace["In"][2] = "# Parameters\ndry_run = False\n"
    check_parameters(namespace)
