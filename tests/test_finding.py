"""Findings, by cause."""

from __future__ import annotations

import re
from pathlib import Path

import erpkit
from erpkit.finding import Cause, Finding, exit_code, group_findings, marked
from erpkit.result import Summary


def drifted(tenant: str) -> Finding:
    return Finding("drift", tenant, "column orders.extra is extra", remedy=f"erpkit tenants repair {tenant}")


def test_findings_that_differ_in_their_subject_only_are_one_line_that_counts_them() -> None:
    (cause,) = group_findings(drifted(f"t{n}") for n in range(64))
    assert str(cause) == "64 tenants: column orders.extra is extra (t0, t1 and 62 more)"
    assert cause.remedy == "erpkit tenants repair t0  # and likewise for 63 others"


def test_a_few_subjects_are_all_named() -> None:
    assert str(group_findings(map(drifted, "abc"))[0]) == "3 tenants: column orders.extra is extra (a, b, c)"
    assert str(group_findings([drifted("a")])[0]) == "a: column orders.extra is extra"


def test_the_command_for_a_cause_helps_each_of_its_subjects_when_it_is_pasted() -> None:
    def remedy(of: str, *slugs: str) -> str:
        (cause,) = group_findings(Finding("kind", slug, "is odd", remedy=of.format(slug)) for slug in slugs)
        return cause.remedy

    assert remedy("erpkit tenants repair {}", "acme") == "erpkit tenants repair acme"
    assert remedy("erpkit tenants repair {}", "acme", "b") == "for each in acme b; do erpkit tenants repair $each; done"
    assert remedy("erpkit migrate up --tenant {} --out-of-order", "acme", "b") == (
        "erpkit migrate up --tenant acme --tenant b --out-of-order"
    )
    assert remedy("erpkit migrate up --tenant {} --retry-dirty  # once it is fixed by hand", "acme", "b") == (
        "erpkit migrate up --tenant acme --tenant b --retry-dirty  # once it is fixed by hand"
    )
    assert remedy("erpkit tenants show {}  # read it", "a", "b") == (
        "for each in a b; do erpkit tenants show $each; done  # read it"
    )
    assert remedy("erpkit tenants rename {0} x; erpkit tenants activate {0}", "acme", "b") == (
        "for each in acme b; do erpkit tenants rename $each x; erpkit tenants activate $each; done"
    )
    assert remedy("run a tool for the schema {}", "acme", "b") == (
        "run a tool for the schema acme, and likewise for 1 other"
    )
    assert remedy("erpkit migrate up", "acme", "b") == "erpkit migrate up"
    assert remedy("restore the file", "acme", "b") == "restore the file"


def test_a_command_that_cannot_be_made_for_all_subjects_says_how_many_it_leaves() -> None:
    def remedy(*pairs: tuple[str, str]) -> str:
        (cause,) = group_findings(Finding("kind", slug, "is odd", remedy=remedy) for slug, remedy in pairs)
        return cause.remedy

    assert (
        remedy(("a", "erpkit x a --at 1"), ("b", "erpkit x b --at 2"))
        == "erpkit x a --at 1  # and likewise for 1 other"
    )
    assert remedy(("a b", "erpkit x 'a b'"), ("b", "erpkit x b")) == "erpkit x 'a b'  # and likewise for 1 other"


def test_the_gravest_cause_comes_first_and_then_the_most_frequent() -> None:
    dirty = Finding("dirty", "t9", "migration 4 stopped half way", "error")
    pending = [Finding("pending", f"t{n}", "stock lacks 4") for n in range(3)]
    advice = Finding("advice", "t1", "an index is not used", "info")
    causes = group_findings([advice, drifted("t1"), *pending, dirty])
    assert [cause.findings[0].kind for cause in causes] == ["dirty", "pending", "drift", "advice"]


def test_advice_alone_is_no_problem() -> None:
    assert exit_code([]) == exit_code([Finding("advice", "t1", "an index is not used", "info")]) == 0
    assert exit_code([drifted("t1")]) == 3


def test_advice_has_another_mark_than_what_needs_a_look_wherever_a_finding_is_a_line_of_text() -> None:
    advice, warning = Finding("side effects", "billing", "sends mail", "info"), Finding("drift", "acme", "differs")
    assert [marked(one) for one in (advice, warning, Cause((advice,)))] == [
        "- billing: sends mail", "! acme: differs", "- billing: sends mail",
    ]  # fmt: skip
    assert Summary("x", {}, [advice, warning]).lines == ["- billing: sends mail", "! acme: differs"]
    assert str(Summary("x", {}, [advice])).splitlines() == ["x", "  - billing: sends mail"]


def test_nothing_prints_the_mark_of_a_finding_by_itself() -> None:
    texts = {path.name: path.read_text("utf-8") for path in Path(erpkit.__file__).parent.rglob("*.py")}
    assert [name for name, text in texts.items() if re.search(r'f"\s*! ?\{(cause|finding|one)\}', text)] == []
