"""What the package promises of itself."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import grimp
import networkx
import pytest
import yaml

import erpkit
from erpkit.config import Settings
from erpkit.result import Result

ROOT = Path(__file__).parents[1]


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def test_conda_and_pip_install_the_same() -> None:
    project = _project()
    wanted = {*project["dependencies"], *project["optional-dependencies"]["dev"]}  # type: ignore[misc,index]
    # conda-forge names the driver's parts and the plot library's core otherwise than PyPI does
    wanted = {
        name.replace("psycopg[binary,pool]", "psycopg").replace("matplotlib", "matplotlib-base") for name in wanted
    }
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = {name for name in listed if isinstance(name, str)}
    pip = {name for group in listed if isinstance(group, dict) for name in group["pip"]}
    assert conda | pip == wanted | {"python>=3.11", "pip", "psycopg-c>=3.2"}


def test_the_versions_agree() -> None:
    assert _project()["version"] == erpkit.__version__
    assert re.search(rf"^## {re.escape(erpkit.__version__)}", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_every_public_name_exists() -> None:
    assert sorted(erpkit.__all__, key=lambda name: (not name.isupper(), name)) == erpkit.__all__
    for name in erpkit.__all__:
        assert getattr(erpkit, name) is not None


@pytest.mark.parametrize(
    "code", ["import erpkit", "from erpkit.cli import main, erpkit; erpkit(['--help'], standalone_mode=False)"]
)
def test_slow_libraries_are_imported_where_they_are_used(code: str) -> None:
    slow = "{'pandas', 'papermill', 'networkx', 'matplotlib', 'psycopg', 'pydantic', 'IPython', 'fastapi', 'mcp'}"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nassert not {slow} & set(sys.modules)"], check=False
    )
    assert done.returncode == 0


def test_no_two_modules_import_each_other_not_even_for_their_types() -> None:
    graph = grimp.build_graph("erpkit", cache_dir=None, exclude_type_checking_imports=False)
    imports = networkx.DiGraph((m, i) for m in graph.modules for i in graph.find_modules_directly_imported_by(m))
    circles = [sorted(some) for some in networkx.strongly_connected_components(imports) if len(some) > 1]
    assert circles == []


def test_the_wheel_carries_the_notebooks_and_the_sample(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in path.parts:
            assert f"erpkit/{path.relative_to(ROOT)}" in names
    for wanted in ("erpkit/py.typed", "erpkit/runs/report.css", "erpkit/sample/billing/migrations/00004_due_dates.sql",
                   "erpkit/events/migrations/00001_event_log.sql",
                   "erpkit/cli/jupyter/labconfig/default_setting_overrides.json"):  # fmt: skip
        assert wanted in names


def test_settings_prefer_erpkits_variable_then_libpqs_then_the_embedded_server() -> None:
    assert Settings.from_env({"ERPKIT_DATABASE": "service=erp", "PGHOST": "db"}).database == "service=erp"
    assert Settings.from_env({"PGHOST": "db"}).database == ""
    assert Settings.from_env({"PGUSER": "me", "PGPASSWORD": "secret"}).is_embedded


def test_settings_never_show_a_connection_string() -> None:
    assert "secret" not in repr(Settings(database="host=db password=secret"))


def test_notebooks_are_thin() -> None:
    import nbformat
    from IPython.core.inputtransformer2 import TransformerManager

    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        for cell in cells:
            if cell.cell_type == "code":
                tree = ast.parse(TransformerManager().transform_cell(cell.source))  # cell magics, too
                assert not any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)), path
                most = (
                    20 if "parameters" in cell.metadata.get("tags", []) else 14
                )  # a declaration may be longer than code
                assert len([line for line in cell.source.splitlines() if line.strip()]) <= most, (path, cell.source)
                is_checked = (
                    "nbval-check-output" in cell.metadata.get("tags", []) or "NBVAL_CHECK_OUTPUT" in cell.source
                )
                is_guide = path.parent.name == "guide"  # these are run, and what they show is compared
                assert not cell.outputs or is_checked or is_guide, (path, cell.source)


@pytest.mark.parametrize("package", ["erp", "migrations", "modules", "tenants", "ui"])
def test_no_name_that_is_imported_late_is_that_of_a_file_which_would_take_its_place(package: str) -> None:
    module = import_module(f"erpkit.{package}")
    files = {path.stem for path in Path(str(module.__file__)).parent.glob("*.py")}
    assert not files & set(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_each_record_with_findings_that_shows_itself_counts_for_the_outcome_of_a_run() -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "erpkit").rglob("*.py")]
    modules = [
        import_module(name.removesuffix(".__init__"))
        for name in names
        if not name.endswith(("__main__", "runs.scheduler"))
    ]
    records = {one for module in modules for one in vars(module).values() if isinstance(one, type)}
    shown = [one for one in records if hasattr(one, "findings") and hasattr(one, "_repr_html_")]
    assert len(shown) > 20
    assert [one for one in shown if not issubclass(one, Result)] == []
