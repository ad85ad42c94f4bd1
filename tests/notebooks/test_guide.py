"""The guide: what its notebooks keep as their output is what they give, and the README leads to them."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests import guide

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", guide.NAMES)
def test_a_guide_keeps_the_output_that_it_gives(name: str) -> None:
    kept, given = (_lines(outputs) for outputs in (guide.read_kept(name), guide.run(name)))
    changes = "\n".join(difflib.unified_diff(kept, given, "kept", "given", n=1, lineterm=""))
    assert not changes, f"run `python -m tests.guide {name}`, and read what has changed:\n{changes}"


def _lines(outputs: object) -> list[str]:
    return json.dumps(outputs, indent=1, ensure_ascii=False, sort_keys=True).splitlines()


@pytest.mark.parametrize("name", guide.NAMES)
def test_what_a_guide_keeps_is_plain_and_the_same_each_time(name: str) -> None:
    text = (guide.FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    for debris in (
        "vnd.jupyter.widget",
        "<script",
        "<style",
        "stderr",
        "Traceback",
        str(Path.home()),
        str(ROOT),
    ):
        assert debris not in text, debris
    shown = json.dumps(guide.read_kept(name))
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-|-[0-9a-f]{10}\b|\d\d:\d\d:\d\d|/tmp/|erpkit_rehearsal_", shown)


def test_a_guide_that_shows_something_else_is_noticed_whatever_its_times_and_ids_are() -> None:
    kept = guide.kept_outputs(_printing("1 migration applied in 0.3 s, plan migrate-0123456789"))
    assert guide.kept_outputs(_printing("1 migration applied in 12 s, plan migrate-9876543210")) == kept
    assert guide.kept_outputs(_printing("2 migrations applied in 0.3 s, plan migrate-0123456789")) != kept


def _printing(text: str) -> Any:
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(run)", outputs=[output])])


def test_the_readme_is_short_and_leads_to_each_guide() -> None:
    assert len(README.splitlines()) <= 250
    assert sorted(path.stem for path in guide.FOLDER.glob("*.ipynb")) == sorted(guide.NAMES)
    assert tuple(re.findall(r"^\| \[.*?\]\(notebooks/guide/(\w+)\.ipynb\)", README, re.MULTILINE)) == guide.NAMES


def test_what_the_readme_and_the_guides_link_to_is_there() -> None:
    texts = [(ROOT, README), (ROOT, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))]
    texts += [(guide.FOLDER, cell.source) for name in guide.NAMES for cell in guide.read_node(name).cells]
    found = [(folder, link) for folder, text in texts for link in re.findall(r"\]\(([^)#: ]+)\)", text)]
    assert len(found) > 30
    assert [link for folder, link in found if not (folder / link).exists()] == []
