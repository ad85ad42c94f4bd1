"""Every runbook has the same parts, in the same order, and says what is expected before it shows what is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from erpkit.runs import list_notebooks, open_notebook

ROOT = Path(__file__).parents[2]
RUNBOOKS = sorted(name for name in list_notebooks() if name.startswith("runbooks/"))
PARTS = ["Check", "Plan", "Guard", "Action", "Verify", "Summary"]


def _cells(name: str) -> list[Any]:
    return list(nbformat.read(open_notebook(name).path, as_version=4).cells)


def _is_checked(cell: Any) -> bool:
    """Whether nbval compares what the cell shows."""
    return "nbval-check-output" in cell.metadata.get("tags", ()) or cell.source.startswith("# NBVAL_CHECK_OUTPUT\n")


def _headings(name: str) -> list[str]:
    markdown = "\n".join(cell.source for cell in _cells(name) if cell.cell_type == "markdown")
    return re.findall(r"^## (\w+)", markdown, re.MULTILINE)


def test_there_is_a_runbook_for_each_trouble() -> None:
    assert [name.removeprefix("runbooks/") for name in RUNBOOKS] == [
        "drifted_tenant", "failed_migration", "poisoned_message", "restore_tenant", "stopped_dispatcher", "tenant_behind",
        "undeclared_dependency",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_begins_with_what_a_person_has_to_know(name: str) -> None:
    first = _cells(name)[0].source
    assert first.startswith("# Runbook: ")
    for part in (
        "**When to use it.**", "**Blast radius.**", "**To undo", "**Owner:**", "**Tell**", "this runbook rehearses", "rehearse = False",
    ):  # fmt: skip
        assert part in first, part


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_checks_plans_guards_acts_verifies_and_sums_up_in_that_order(name: str) -> None:
    firsts = [heading for heading in dict.fromkeys(reversed(_headings(name))) if heading in PARTS][::-1]
    assert firsts == PARTS
    assert _headings(name)[0] in ("Check", "The")  # the trouble, which a rehearsal makes first


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_says_what_is_expected_before_it_shows_what_is(name: str) -> None:
    before = ""
    for cell in _cells(name):
        if cell.cell_type == "markdown":
            before = cell.source
        elif _is_checked(cell):
            assert cell.outputs, cell.source
            assert re.search(r"\bexpected\b", before, re.IGNORECASE), cell.source
    for part in ("Check", "Plan", "Verify"):
        said = [
            c.source
            for c in _cells(name)
            if c.cell_type == "markdown" and re.search(rf"^## {part}\b", c.source, re.MULTILINE)
        ]
        assert all("xpected" in text for text in said), part


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_rehearses_unless_it_is_told_not_to_and_its_guard_stands_before_every_action(name: str) -> None:
    notebook = open_notebook(name)
    defaults = {parameter.name: parameter.default for parameter in notebook.parameters}
    assert defaults["rehearse"] is True
    assert "confirm" in defaults or name == "runbooks/undeclared_dependency"  # which writes nothing in earnest
    code = [cell.source for cell in _cells(name) if cell.cell_type == "code"]
    (guard,) = [number for number, source in enumerate(code) if re.search(r"^confirmed = ", source, re.MULTILINE)]
    verbs = ("apply(", "run_plan(", "run_letters(", "run_repair(", "import_beside(", "swap_in(", "decide(")
    mend = "agreed = mending.id if rehearse else confirm_mend\n"  # a mend has a plan, and so an id, of its own
    for verb in verbs:
        for number, source in enumerate(code):
            if f".{verb}" in source or re.search(rf"(?<!\w){re.escape(verb)}", source):
                is_guarded = number > guard or mend in source.partition(f".{verb}")[0]
                assert is_guarded or re.search(r"if rehears(e|al):", source), source


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_is_thin_and_checks_that_it_ends_well(name: str) -> None:
    code = [cell.source for cell in _cells(name) if cell.cell_type == "code"]
    assert 8 <= len(code) <= 15
    assert sum(_is_checked(cell) for cell in _cells(name)) >= 3
    assert re.search(r"^ui\.prove\(.*[Ss]ummary.*, rehearsal, ", code[-1], re.MULTILINE)
    assert any(source.endswith("ui.banner(erp, rehearsal)") for source in code)
    assert "close()" in code[-1]
    for source in _long_cells(code):
        pytest.fail(f"more than 14 lines: {source}")


def _long_cells(code: list[str]) -> Iterator[str]:
    return (source for source in code if len([line for line in source.splitlines() if line.strip()]) > 14)
