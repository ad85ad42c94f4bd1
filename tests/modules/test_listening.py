"""Listening to a module's events is no dependency on it: no load order, no cycle, nothing to declare."""

from dataclasses import dataclass
from pathlib import Path

from erpkit.config import Settings
from erpkit.modules import Couplings, Edge, EventHandler, Layers, Module, ModuleCheck, Rules, check_modules, cut_edges
from erpkit.modules.registry import read_source


@dataclass(frozen=True)
class OrderPlaced:
    order: int


@dataclass(frozen=True)
class StockReserved:
    order: int


def handle(event: object, context: object) -> None:
    """Do nothing."""


INVENTORY = Module(
    "inventory",
    publishes=(StockReserved,),
    subscribes=(EventHandler("inventory.on_order_placed", OrderPlaced, handle),),
)
SALES = Module(
    "sales",
    ("inventory",),
    publishes=(OrderPlaced,),
    subscribes=(EventHandler("sales.on_stock_reserved", StockReserved, handle),),
)
IMPORT = Couplings((Edge("inventory", "sales", "import", "inventory/a.py:1", relation="listens"),))


def _kinds(check: ModuleCheck) -> list[str]:
    return [finding.kind for finding in check.findings]


def test_modules_that_answer_each_other_by_events_are_no_cycle() -> None:
    check = check_modules([SALES, INVENTORY], IMPORT)
    assert (check.findings, check.components, check.order) == ((), (), ("inventory", "sales"))


def test_so_are_those_that_a_modules_toml_describes(tmp_path: Path) -> None:
    path = tmp_path / "modules.toml"
    path.write_text(
        '[[module]]\nname = "inventory"\npublishes = ["StockReserved"]\nsubscribes = ["sales.OrderPlaced"]\n'
        '[[module]]\nname = "sales"\ndepends = ["inventory"]\npublishes = ["OrderPlaced"]\n'
        'subscribes = ["inventory.StockReserved"]\n'
    )
    source = read_source(Settings(modules=str(path)))
    assert check_modules(source.candidates, findings=source.findings).findings == ()


def test_a_subscription_is_an_edge_with_the_place_of_its_handler() -> None:
    (edge,) = [edge for edge in check_modules([SALES, INVENTORY]).edges if edge.source == "inventory"]
    assert (edge.target, edge.kind, edge.relation) == ("sales", "event", "listens")
    assert (edge.path, edge.line) == ("tests/modules/test_listening.py", handle.__code__.co_firstlineno)


def test_a_lower_layer_may_listen_to_a_higher_one() -> None:
    assert (
        check_modules([SALES, INVENTORY], IMPORT, rules=Rules(layers=Layers.parse("sales > inventory"))).findings == ()
    )


def test_a_dependency_that_is_declared_for_a_subscription_alone_is_the_one_to_remove() -> None:
    both = Module("inventory", ("sales",), publishes=INVENTORY.publishes, subscribes=INVENTORY.subscribes)
    (finding,) = check_modules([SALES, both], Couplings((Edge("sales", "inventory", "query", "a.sql:1"),))).findings
    assert (finding.kind, finding.problem) == ("cycle", "inventory -> sales -> inventory")
    assert finding.remedy.startswith("remove inventory -> sales from what inventory declares: it only listens")


def test_a_dependency_that_is_declared_and_only_listened_to_is_used() -> None:
    listener = Module("audit", ("sales",), subscribes=(EventHandler("audit.on_order_placed", OrderPlaced, handle),))
    assert "unused dependency" not in _kinds(check_modules([SALES, INVENTORY, listener], Couplings()))


def test_what_if_questions_do_not_count_subscriptions_either() -> None:
    without = cut_edges(check_modules([SALES, INVENTORY], IMPORT), ["sales->inventory"])
    assert (without.before, without.after) == ((), ())


def test_a_name_that_was_only_found_is_advice_and_closes_no_cycle() -> None:
    maybe = Edge("inventory", "sales", "function", "inventory_f names sales_orders", certain=False)
    modules = [Module("sales", ("inventory",)), Module("inventory")]
    (finding,) = check_modules(modules, Couplings((maybe,), partly_read=frozenset({"sales"}))).findings
    assert (finding.kind, finding.severity) == ("possible dependency", "info")
    assert finding.problem == "inventory seems to use sales without declaring it: function"


def test_the_table_of_couplings_tells_a_subscription_from_what_is_not_declared() -> None:
    billing = Module("billing", publishes=(), subscribes=())
    edges = Couplings((*IMPORT.edges, Edge("billing", "sales", "query", "a.sql:1")))
    table = check_modules([SALES, INVENTORY, billing], edges).coupling_table
    rows = {(row[0].source, row[0].target): table.columns[2].value(row) for row in table.rows}
    assert rows == {("billing", "sales"): "no", ("inventory", "sales"): "listens", ("sales", "inventory"): "yes"}
