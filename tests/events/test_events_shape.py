"""The shape of erpkit/events: what travels together is one object, and its wings depend on one another one way only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import erpkit.events

_MOST = 5
_FILES = sorted(Path(erpkit.events.__file__).parent.rglob("*.py"))


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    """Return the names of a function's parameters, those for keywords only included, without self and cls."""
    each = function.args
    starred = [one for one in (each.vararg, each.kwarg) if one is not None]
    names = [one.arg for one in (*each.posonlyargs, *each.args, *each.kwonlyargs, *starred)]
    return [name for name in names if name not in {"self", "cls"}]


def _functions(path: Path) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield f"{path.name}:{node.lineno} {getattr(node, 'name', 'lambda')}", _parameters(node)


def test_no_function_of_events_takes_more_than_five_parameters() -> None:
    assert len(_FILES) > 30
    found = {name: names for path in _FILES for name, names in _functions(path) if len(names) > _MOST}
    assert found == {}


@pytest.mark.parametrize("package", ["erpkit.events", "erpkit.events.brokers", "erpkit.events.replay"])
def test_no_import_leads_back_to_where_it_came_from(package: str) -> None:
    graph = grimp.build_graph("erpkit")
    children = set(graph.find_children(package))
    for child in children:
        graph.squash_module(child)
    imports = {  # each wing as a whole
        child: {other for other in children - {child} if graph.direct_import_exists(importer=child, imported=other)}
        for child in children
    }
    while free := [child for child, others in imports.items() if not others & imports.keys()]:
        for child in free:
            del imports[child]
    assert imports == {}, "these import one another in a circle, or are imported by such"
