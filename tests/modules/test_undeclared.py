"""Dependencies that nobody declared: found with their evidence, declared where that closes no cycle."""

from pathlib import Path

from erpkit.config import Settings
from erpkit.modules import Couplings, Edge, Module, Rule, Rules, check_modules, load_modules
from erpkit.modules.impact import declare, find_undeclared, plan_declarations
from erpkit.sample.demo import careless_module

POINTS = Couplings((Edge("bonus", "billing", "foreign key", "bonus_points -> billing_invoices"),))
SEEN = Couplings((Edge("shop", "pay", "query", "FindPaid (shop/a.sql:1) uses pay_slips"),))


def test_a_foreign_key_to_an_undeclared_module_is_found_and_declaring_cures_it() -> None:
    modules = [*load_modules(Settings(modules="erpkit.sample")).modules, careless_module()]
    check = check_modules(modules, POINTS)
    (found,) = find_undeclared(check)
    assert (found.module, found.needs, found.dependencies) == ("bonus", "billing", ("sales", "billing"))
    assert found.evidence == ("foreign key: bonus_points -> billing_invoices",)
    assert check.order.index("bonus") < check.order.index("billing")
    assert found.cure == "declare: Module('bonus', dependencies=('sales', 'billing'))"
    cured = check_modules(declare(modules, [found]), POINTS)
    assert find_undeclared(cured) == []
    assert cured.order.index("bonus") > cured.order.index("billing")


def test_what_would_close_a_cycle_is_to_be_cut_and_is_not_declared() -> None:
    modules = [Module("pay", dependencies=("shop",)), Module("shop")]
    (found,) = find_undeclared(check_modules(modules, SEEN))
    assert found.cycle == ("shop", "pay", "shop")
    assert found.cure.startswith("cut: declaring it would close the cycle shop -> pay -> shop")
    assert declare(modules, [found]) == modules


def test_what_a_modules_toml_describes_is_to_be_declared_there(tmp_path: Path) -> None:
    file = tmp_path / "modules.toml"
    file.write_text(
        '[[module]]\nname = "pay"\ndepends = ["shop"]\n[[module]]\nname = "shop"\n[[module]]\nname = "stock"\n'
    )
    modules = load_modules(Settings(modules=str(file))).modules
    seen = Couplings((Edge("pay", "stock", "query", "FindPaid (pay/a.sql:1) uses stock_items"),))
    (found,) = find_undeclared(check_modules(modules, seen))
    assert found.cure.startswith('declare: depends = ["shop", "stock"] in ')
    assert found.cure.endswith("modules.toml")


class Shop:
    """A module that is no dataclass."""

    name = "shop"
    dependencies = ()
    migrations = None
    commands = ()
    publishes = ()
    subscribes = ()


def test_a_module_of_another_make_can_be_declared_for_too() -> None:
    modules = [Module("pay"), Shop()]
    cured = check_modules(declare([Module("zone"), *modules], find_undeclared(check_modules(modules, SEEN))), SEEN)
    assert (cured.order, find_undeclared(cured)) == (("pay", "shop", "zone"), [])


def test_what_the_rules_allow_need_not_be_declared() -> None:
    rules = Rules(allowed=(Rule("shop", "pay", "until shop has its own"),))
    assert plan_declarations([Module("pay"), Module("shop")], SEEN, rules).undeclared == ()
    assert len(plan_declarations([Module("pay"), Module("shop")], SEEN).undeclared) == 1
