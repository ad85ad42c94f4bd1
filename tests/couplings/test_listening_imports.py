"""A file that imports another module's events, and nothing else of it, only listens to that module."""

from pathlib import Path

import pytest

from erpkit.couplings.imports import import_edges
from erpkit.couplings.source import Code
from erpkit.modules import Edge

EVENTS = {"sales": {"OrderPlaced", "OrderPaid"}}


def _edges(folder: Path, code: str) -> list[Edge]:
    for path, text in {"sales/messages.py": "", "sales/__init__.py": "", "stock/events.py": code}.items():
        file = folder / "shop" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    read = Code({"sales": "shop.sales", "stock": "shop.stock"}, roots=[folder])
    edges = [edge for file in read.files() for edge in import_edges(read, file, EVENTS)]
    assert read.unread == []
    return edges


@pytest.mark.parametrize(
    ("code", "relation", "line"),
    [
        ("from shop.sales.messages import OrderPlaced, OrderPaid", "listens", 1),
        ("from shop.sales import OrderPlaced", "listens", 1),
        ("from ..sales.messages import OrderPlaced", "listens", 1),
        ("from shop.sales import messages\ndef f(x: messages.OrderPlaced): ...", "listens", 1),
        ("import shop.sales.messages as m\ndef f(x: m.OrderPlaced): ...", "listens", 1),
        ("import shop.sales.messages\ndef f(x: shop.sales.messages.OrderPlaced): ...", "listens", 1),
        ("from shop.sales.messages import OrderPlaced, PlaceOrder", "requires", 1),
        ("from shop.sales.messages import OrderPlaced\ndef f():\n    from shop.sales.messages import x", "requires", 3),
        ("from shop.sales import messages\nmessages.OrderPlaced, messages.total()", "requires", 1),
        ("from shop.sales import messages", "requires", 1),
        ("from shop.sales.messages import *", "requires", 1),
        ("import shop.sales.messages", "requires", 1),
    ],
)
def test_what_is_imported_tells_whether_a_module_listens_or_requires(
    code: str, relation: str, line: int, tmp_path: Path
) -> None:
    (edge,) = _edges(tmp_path, code)
    assert (edge.source, edge.target, edge.kind, edge.relation) == ("stock", "sales", "import", relation)
    assert edge.line == line
