"""The banner above a runbook, and what the summary of a rehearsal says that it proved."""

from __future__ import annotations

from typing import Any, cast

import pytest

from erpkit.result import Summary
from erpkit.ui import banner, prove

REHEARSAL = cast("Any", object())


class Target:
    target = "erp on db.example"


def test_a_rehearsal_is_told_from_the_real_thing_at_first_sight() -> None:
    rehearsed, earnest = banner(cast("Any", Target()), REHEARSAL), banner(cast("Any", Target()), None)
    assert "<strong>REHEARSAL</strong> on a scratch copy" in rehearsed._repr_html_()
    assert "pass rehearse = False (-p rehearse false)" in str(rehearsed)  # in a run there is nothing to untick
    assert "<strong>IN EARNEST</strong> on erp on db.example" in earnest._repr_html_()


@pytest.mark.parametrize("is_so", [True, False])
def test_the_summary_of_a_rehearsal_says_what_was_proved_and_is_never_green(is_so: bool) -> None:
    summary = prove(Summary("Applied: plan x", {"run": 1}), REHEARSAL, {"nothing is pending": is_so})
    page = summary.html()
    assert str(summary).startswith("REHEARSAL on a scratch copy: Applied: plan x")
    assert ("<li>proved: nothing is pending" in page, "NOT proved" in page) == (is_so, not is_so)
    assert summary.exit_code == (0 if is_so else 3)
    assert page.index("REHEARSAL") < page.index("Applied")
    assert "grayscale(1)" in page  # the frame of a summary without findings is green otherwise
    assert Summary.of_scrap(summary.scrap()).title.startswith("REHEARSAL")


def test_in_earnest_the_summary_is_the_plans_own() -> None:
    summary = Summary("Applied: plan x", {"run": 1})
    assert prove(summary, None, {"nothing is pending": False}) is summary
