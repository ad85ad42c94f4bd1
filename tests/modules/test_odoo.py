"""Odoo's manifests: parsed and never executed; what is wrong is told by file and line."""

from pathlib import Path

import pytest

from erpkit.config import Settings
from erpkit.couplings import inspect_modules
from erpkit.errors import UsageError
from erpkit.modules import Couplings, ModuleCheck, ModuleLike, check_modules
from erpkit.modules.odoo import read_addons
from erpkit.modules.registry import read_source

SALE = """# -*- coding: utf-8 -*-
{
    "name": "Sales",
    "version": "19.0.1.0",
    "category": "Sales/Sales",
    "depends": [
        "base",
        "product",
    ],
    "auto_install": ["product"],
}
"""


def _addon(folder: Path, name: str, manifest: str, **files: str) -> Path:
    (folder / name).mkdir(parents=True)
    path = folder / name / "__manifest__.py"
    path.write_text(manifest)
    for file, text in files.items():
        (folder / name / f"{file}.py").write_text(text)
    return path


def _depending(*names: str) -> str:
    return repr({"name": "x", "depends": list(names)})


def _check(*folders: Path) -> ModuleCheck:
    addons = read_addons(folders)
    couplings = Couplings(addons.imports, (), frozenset(module.name for module in addons.modules), ("XML",))
    return check_modules(
        addons.modules, couplings, findings=addons.findings, outside=addons.outside, indirect=True
    )  # fmt: skip


def test_a_manifest_becomes_a_module(tmp_path: Path) -> None:
    path = _addon(tmp_path, "sale", SALE)
    addons = read_addons([tmp_path])
    (module,) = addons.modules
    assert (module.name, module.title, module.dependencies) == ("sale", "Sales", ("base", "product"))
    assert (module.category, module.version, module.installable, module.auto_install) == (
        "Sales/Sales", "19.0.1.0", True, True,
    )  # fmt: skip
    assert str(module.declared_at("product")) == f"{path}:8"
    assert addons.findings == ()
    assert addons.outside == ("base", "product")


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        ("{'name': 'x', 'depends': [], 'version': open('/x').read()}", ":1: 'version' is an expression, which is not run: open("),
        ("{'name': 'x',\n 'depends': ['base'] + EXTRA}", ":2: 'depends' is an expression"),
        ("{'name': 'x', 'depends': ['base'],\n 'summary': f'{1}'}", ":2: 'summary' is an expression"),
        ("{'name': 'x', 'depends': ['base'], **more}", ":1: a key that is not text"),
        ("{'name': 'x',\n\n 'depends': 'base'}", ":3: 'depends' must be list or tuple, not str"),
        ("{'name': 'x', 'depends': ['base', 3]}", ":1: 'depends' must hold names of addons"),
        ("{'name': 7, 'depends': []}", ":1: 'name' must be str, not int"),
        ("{'name': 'x', 'depends': [],\n'installable': 'no'}", ":2: 'installable' must be bool or int, not str"),
        ("\n{'depends': []}", ":2: the key 'name' is missing"),
        ("{'name': 'x',", ":1: not Python"),
        ("import os\n{'name': 'x', 'depends': []}", ":1: a manifest is one dictionary and nothing else"),
        ("{'name': 'x'}\nboom()", ":2: a manifest is one dictionary and nothing else"),
        ("['x']", ":1: a manifest is one dictionary"),
        ("", ":1: a manifest is one dictionary"),
        ("(" * 5000, "not Python"),
        ("\0", "not Python"),
        ("# coding: latin-9000\n{}", "not Python"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_manifest_is_a_finding_with_file_and_line(
    manifest: str, problem: str, tmp_path: Path
) -> None:
    path = _addon(tmp_path, "odd", manifest)
    (finding,) = read_addons([tmp_path]).findings
    assert finding.kind == "invalid manifest"
    assert finding.problem.startswith(str(path))
    assert problem in finding.problem
    assert "\n" not in str(finding)


def test_nothing_of_a_manifest_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    _addon(tmp_path, "evil", f"{{'name': 'x', 'depends': [], 'version': open({str(mark)!r}, 'w').write('!')}}")
    _addon(tmp_path, "worse", f"open({str(mark)!r}, 'w').write('!')\n{{'name': 'x', 'depends': []}}")
    assert len(read_addons([tmp_path]).findings) == 2
    assert not mark.exists()


def test_one_wrong_key_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    _addon(tmp_path, "sale", "{'name': 'x', 'depends': ['base', 'product'], 'version': VERSION}")
    (module,) = read_addons([tmp_path]).modules
    assert module.dependencies == ("base", "product")


def test_without_base_what_is_not_here_is_elsewhere_and_with_it_it_is_missing(tmp_path: Path) -> None:
    _addon(tmp_path / "mine", "sale", _depending("product"))
    assert (_check(tmp_path / "mine").findings, _check(tmp_path / "mine").outside) == ((), ("product",))
    path = _addon(tmp_path / "odoo", "base", "{'name': 'Base'}")
    (finding,) = _check(tmp_path / "mine", path.parents[1]).findings
    assert finding.kind == "missing dependency"
    assert finding.evidence == (f"{tmp_path}/mine/sale/__manifest__.py:1",)


def test_an_import_of_another_addon_is_a_coupling_that_by_way_of_others_is_declared(tmp_path: Path) -> None:
    _addon(tmp_path, "base", _depending())
    _addon(
        tmp_path,
        "sale",
        _depending("base"),
        models="from odoo.addons.base.models import partner\nfrom odoo.addons.sale import x\n",
    )
    _addon(tmp_path, "late", _depending("sale"), models="import odoo.addons.base.tools\n")
    path = _addon(
        tmp_path,
        "crm",
        _depending("base"),
        models="try:\n    def f():\n        from odoo.addons import sale\nfinally: pass\n",
    )
    assert [edge.source for edge in read_addons([tmp_path]).imports] == ["crm", "late", "sale"]  # none of sale's own
    (finding,) = _check(tmp_path).findings
    assert (finding.kind, finding.modules) == ("undeclared dependency", ("crm", "sale"))
    assert finding.evidence == (f"import: {path.parent}/models.py:3",)


def test_an_import_that_closes_a_cycle_is_named_with_its_place(tmp_path: Path) -> None:
    _addon(tmp_path, "base", _depending(), hook="from odoo.addons.sale import x\n")
    _addon(tmp_path, "sale", _depending("base"))
    found = {finding.kind: finding for finding in _check(tmp_path).findings}
    assert set(found) == {"hidden cycle", "undeclared dependency"}
    assert found["hidden cycle"].problem == "base -> sale -> base"
    assert any("hook.py:1" in evidence for evidence in found["hidden cycle"].evidence)


def test_an_addon_that_cannot_be_installed_is_left_out_and_who_needs_it_is_told(tmp_path: Path) -> None:
    _addon(tmp_path, "base", _depending())
    _addon(tmp_path, "old", "{'name': 'x', 'depends': ['base'], 'installable': False}")
    _addon(tmp_path, "new", _depending("old"))
    check = _check(tmp_path)
    assert check.names == ("base", "new")
    assert "new depends on old, which is not installable" in [finding.problem for finding in check.findings]


def test_two_addons_of_one_name_are_named_with_their_paths(tmp_path: Path) -> None:
    paths = [_addon(tmp_path / place, "sale", _depending()) for place in ("one", "two")]
    (finding,) = _check(tmp_path).findings
    assert (finding.kind, finding.evidence) == ("duplicate", tuple(str(path) for path in paths))


def test_a_thousand_addons_are_read(tmp_path: Path) -> None:
    for number in range(1000):
        _addon(tmp_path, f"addon_{number}", _depending(*(f"addon_{n}" for n in range(max(0, number - 5), number))))
    assert (len(_check(tmp_path).order), _check(tmp_path).findings) == (1000, ())


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_addons_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder|no addon is in there"):
        read_addons([tmp_path / name])


def test_an_addon_that_names_no_dependency_depends_on_base(tmp_path: Path) -> None:
    for name, manifest in (("absent", "{'name': 'x'}"), ("empty", _depending()), ("base", _depending())):
        _addon(tmp_path, name, manifest)
    addons = read_addons([tmp_path])
    assert {module.name: module.dependencies for module in addons.modules} == {
        "absent": ("base",), "base": (), "empty": ("base",),
    }  # fmt: skip
    assert _check(tmp_path).order == ("base", "absent", "empty")
    assert addons.findings == ()


def test_linked_folders_are_followed_and_an_addon_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    _addon(tmp_path / "src" / "oca", "sale_x", _depending("sale"))
    _addon(tmp_path / "src" / "odoo", "sale", _depending("base"), models="import odoo.addons.sale_x.y\n")
    auto = tmp_path / "auto" / "addons"
    auto.mkdir(parents=True)
    for target in ("oca/sale_x", "odoo/sale"):
        (auto / Path(target).name).symlink_to(tmp_path / "src" / target)
    (auto / "again").symlink_to(auto)  # a link to itself ends the walk
    linked = read_addons([auto])
    assert [module.path for module in linked.modules] == [
        auto / name / "__manifest__.py" for name in ("sale", "sale_x")
    ]
    assert [(edge.source, edge.target) for edge in linked.imports] == [("sale", "sale_x")]
    assert [module.name for module in read_addons([auto, tmp_path / "src"]).modules] == ["sale", "sale_x"]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    _addon(tmp_path, "sale", _depending("base"))
    _addon(tmp_path, "crm", _depending("sale"))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "crm" / "lost.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "__manifest__.py").symlink_to(tmp_path / "nowhere.py")
    addons = read_addons([tmp_path])
    assert [str(one) for one in addons.not_read] == [
        f"{tmp_path}/gone: is a link that leads nowhere", f"{tmp_path}/crm/lost.py: No such file or directory",
    ]  # fmt: skip
    assert [finding.problem for finding in addons.findings] == [
        f"{tmp_path}/half/__manifest__.py: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("written", "installs", "problems"),
    [
        ("True", True, 0), ("False", False, 0), ("0", False, 0), ("[]", True, 0), ("['sale']", True, 0), ("['sale', 'crm']", True, 1),
    ],
)  # fmt: skip
def test_auto_install_is_a_truth_value_or_a_list_of_dependencies(
    written: str, installs: bool, problems: int, tmp_path: Path
) -> None:
    _addon(tmp_path, "sale", _depending("base"))
    _addon(tmp_path, "crm", _depending("base"))
    path = _addon(tmp_path, "sale_x", f"{{'name': 'x', 'depends': ['base', 'sale'],\n'auto_install': {written}}}")
    addons = read_addons([tmp_path])
    assert {module.name: module.auto_install for module in addons.modules}["sale_x"] == installs
    assert [finding.problem for finding in addons.findings] == [
        f"{path}:2: auto_install names crm, which depends does not list"
    ][:problems]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("slae", "sale"), ("sale_stok", "sale_stock"), ("sale_sstock", "sale_stock"), ("sale_stack", "sale_stock")],
)
@pytest.mark.parametrize("with_base", [False, True])
def test_a_misspelt_name_is_told_apart_from_one_that_is_elsewhere(
    wrong: str, right: str, with_base: bool, tmp_path: Path
) -> None:
    if with_base:
        _addon(tmp_path, "base", _depending())
    _addon(tmp_path, right, _depending("base"))
    path = _addon(tmp_path, "crm", _depending(wrong))
    (finding,) = _check(tmp_path).findings
    assert (finding.kind, finding.modules) == (
        "missing dependency" if with_base else "misspelt dependency",
        ("crm", wrong),
    )
    assert (finding.remedy, str(finding.places[0])) == (f"did you mean {right}?", f"{path}:1")


def test_a_name_that_more_addons_depend_on_is_the_right_one_though_neither_is_here(tmp_path: Path) -> None:
    for name, needs in (("a", "sale"), ("b", "sale"), ("c", "slae")):
        _addon(tmp_path, name, _depending(needs))
    (finding,) = _check(tmp_path).findings
    assert (finding.modules, finding.remedy) == (("c", "slae"), "did you mean sale?")


@pytest.mark.parametrize(
    ("name", "other"),
    [("l10n_be", "l10n_de"), ("web", "wen"), ("sale_crm", "sale_mrp"), ("stock", "stock_account"), ("po_x", "ho_x")]
)  # fmt: skip
def test_names_that_only_look_alike_are_two_addons(name: str, other: str, tmp_path: Path) -> None:
    _addon(tmp_path, name, _depending("base"))
    _addon(tmp_path, "crm", _depending(other))
    assert _check(tmp_path).findings == ()


def test_folders_may_be_a_pattern(tmp_path: Path) -> None:
    _addon(tmp_path / "oca" / "web", "web_x", _depending("web"))
    _addon(tmp_path / "oca" / "crm", "crm_x", _depending("crm"))
    for source in (
        read_source(Settings(modules=f"{tmp_path}/oca/*")),
        read_source(Settings(), [tmp_path / "oca" / "[cw]*"]),
    ):
        assert [module.name for module in source.candidates if isinstance(module, ModuleLike)] == ["crm_x", "web_x"]
    with pytest.raises(UsageError, match=r"nothing\*: no folder matches"):
        read_source(Settings(), [tmp_path / "nothing*"])


def test_a_file_of_an_addon_that_is_no_python_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    _addon(tmp_path, "base", _depending())
    _addon(
        tmp_path, "sale", _depending("base"), a="import odoo.addons.base\nprint 'x'\n", b="import odoo.addons.base\n"
    )
    addons = read_addons([tmp_path])
    assert [(edge.source, edge.path.endswith("b.py")) for edge in addons.imports] == [("sale", True)]
    (unread,) = addons.not_read
    assert (unread.path, unread.line, unread.modules) == (f"{tmp_path}/sale/a.py", 2, ("sale",))


def test_an_addon_may_have_any_name(tmp_path: Path) -> None:
    _addon(tmp_path, "L10n-very_long_name_of_an_addon_that_has_more_than_forty_letters", _depending("base"))
    assert inspect_modules(Settings(modules=str(tmp_path))).findings == ()
