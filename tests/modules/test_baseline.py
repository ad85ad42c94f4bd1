"""A baseline: what was there when a check became a gate does not fail, and what is new does."""

from dataclasses import replace
from pathlib import Path

import pytest

from erpkit.errors import UsageError
from erpkit.modules import Couplings, Edge, Module, ModuleCheck, Unread, check_modules
from erpkit.modules.baseline import read_baseline, write_baseline

SHOP = tuple(map(Module, ("billing", "catalog", "sales")))


def _import(source: str, target: str, path: str, line: int) -> Edge:
    return Edge(source, target, "import", f"{path}:{line} imports {target}", path, line, 1)


FIRST, SECOND = _import("sales", "catalog", "sales/a.py", 3), _import("sales", "catalog", "sales/b.py", 7)
LOOP = (_import("catalog", "billing", "catalog/x.py", 1), _import("billing", "sales", "billing/x.py", 1), FIRST)


def _check(*edges: Edge, baseline: Path | None = None, unread: tuple[Unread, ...] = ()) -> ModuleCheck:
    return check_modules(SHOP, Couplings(edges, unread), baseline=read_baseline(baseline))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "modules-baseline.json"


def test_what_the_baseline_has_does_not_fail_though_its_line_moved(path: Path) -> None:
    assert write_baseline(path, _check(FIRST).findings) == 1
    moved = replace(FIRST, evidence="sales/a.py:33 imports catalog", line=33)
    check = _check(moved, baseline=path)
    assert (check.findings, check.known, check.summary.exit_code) == ((), 1, 0)
    assert check.summary.facts["in the baseline"] == 1


def test_a_new_coupling_of_modules_that_are_in_the_baseline_fails_alone(path: Path) -> None:
    write_baseline(path, _check(FIRST).findings)
    check = _check(FIRST, SECOND, baseline=path)
    (finding,) = check.findings
    assert (finding.kind, finding.evidence) == ("undeclared dependency", ("import: sales/b.py:7 imports catalog",))
    assert [place.path for place in finding.places] == ["sales/b.py"]
    assert check.summary.exit_code == 3


def test_what_no_longer_happens_is_said_and_does_not_fail(path: Path) -> None:
    write_baseline(path, _check(FIRST, SECOND).findings)
    check = _check(SECOND, baseline=path)
    (finding,) = check.findings
    assert (finding.kind, finding.severity, check.summary.exit_code) == ("no longer happens", "info", 0)
    assert finding.problem == "the baseline has undeclared-dependency of sales, catalog, which was not found"
    assert finding.evidence == ("import: sales/a.py imports catalog",)


@pytest.mark.parametrize(
    "seen",
    [
        Couplings(not_read=(Unread("the database was not read: no answer"),)),
        Couplings(not_read=(Unread("sales/a.py was not read", "sales/a.py", modules=("sales",)),)),
    ],
)
def test_of_what_was_not_read_whole_it_is_not_said_that_it_no_longer_happens(path: Path, seen: Couplings) -> None:
    write_baseline(path, _check(FIRST).findings)
    check = check_modules(SHOP, seen, baseline=read_baseline(path))
    assert [finding.kind for finding in check.findings if finding.kind != "not read"] == []


@pytest.mark.parametrize("also_unread", [False, True])
def test_without_the_database_only_couplings_in_code_are_said_to_happen_no_longer(
    path: Path, also_unread: bool
) -> None:
    key = Edge("sales", "billing", "foreign key", "sales_orders needs billing_invoices")
    write_baseline(path, _check(FIRST, key).findings)
    unread = (Unread("catalog/a.py was not read", "catalog/a.py", modules=("catalog",)),) if also_unread else ()
    seen = Couplings(not_read=unread, not_asked=("the database was not read, as asked for",))
    check = check_modules(SHOP, seen, baseline=read_baseline(path))
    gone = [finding.modules for finding in check.findings if finding.kind == "no longer happens"]
    assert gone == ([] if also_unread else [("sales", "catalog")])


def test_a_cycle_that_became_smaller_is_known_and_one_that_grew_is_new(path: Path) -> None:
    small = (FIRST, _import("catalog", "sales", "catalog/y.py", 1))
    write_baseline(path, _check(*LOOP, *small).findings)
    assert _check(*small, baseline=path).summary.exit_code == 0
    write_baseline(path, _check(*small).findings)
    grown = [finding.kind for finding in _check(*LOOP, *small, baseline=path).findings]
    assert "hidden cycle" in grown


def test_what_was_not_read_is_never_known(path: Path) -> None:
    unread = (Unread("sales/c.py:1: not Python", "sales/c.py", 1, ("sales",)),)
    assert write_baseline(path, _check(FIRST, unread=unread).findings) == 1
    check = _check(FIRST, baseline=path, unread=unread)
    assert [finding.kind for finding in check.findings] == ["not read"]


def test_what_start_up_refuses_is_never_known_but_where_nothing_starts(path: Path) -> None:
    loop = [Module("a", ("b",)), Module("b", ("a",))]
    for starts, known in ((True, 0), (False, 1)):
        check = check_modules(loop, starts=starts)
        assert write_baseline(path, check.findings, check.never) == known
        check = check_modules(loop, baseline=read_baseline(path), starts=starts)
        assert (check.known, check.summary.exit_code) == (known, 0 if known else 3)


def test_a_baseline_is_the_same_text_for_the_same_findings(path: Path) -> None:
    write_baseline(path, _check(*LOOP, SECOND).findings)
    text = path.read_text()
    write_baseline(path, _check(SECOND, *reversed(LOOP)).findings)
    assert path.read_text() == text


def test_what_a_baseline_has_is_text_whatever_stands_in_it(path: Path) -> None:
    path.write_text('{"version": 1, "findings": [{"rule": "x", "modules": [1], "evidence": [2]}]}')
    (finding,) = check_modules([Module("a")], baseline=read_baseline(path)).findings
    assert (finding.kind, finding.modules, finding.evidence) == ("no longer happens", ("1",), ("2",))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a baseline"), ("[]", "is not a baseline"), ('{"version": 1}', "is not a baseline"),
        ('{"version": 2, "findings": []}', "version 2 of a baseline, not 1"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_baseline_is_refused(text: str, said: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_baseline(path)


def test_a_baseline_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone/b\.json: the baseline cannot be written: No such file"):
        write_baseline(tmp_path / "gone" / "b.json", ())
    with pytest.raises(UsageError, match="the baseline cannot be read: Is a directory"):
        read_baseline(tmp_path)
