"""Dependencies that nobody declared: found with their evidence, declared where that closes no cycle."""

from dataclasses import dataclass

from erpkit.config import Settings
from erpkit.modules import EventHandler, Module, check_modules, load_modules
from erpkit.modules.impact import declare, find_undeclared
from erpkit.sample.demo import careless_module


@dataclass(frozen=True)
class Paid:
    amount: int


def _nothing(event: Paid, context: object) -> None:
    """Handle an event."""


def test_a_handler_of_an_undeclared_modules_event_is_found_and_declaring_cures_it() -> None:
    modules = [*load_modules(Settings(modules="erpkit.sample")).modules, careless_module()]
    check = check_modules(modules)
    (found,) = find_undeclared(check)
    assert (found.module, found.needs, found.dependencies) == ("bonus", "billing", ("sales", "billing"))
    assert "bonus.on_payment_received" in found.evidence[0]
    assert check.order.index("bonus") < check.order.index("billing")
    assert found.cure == "declare: Module('bonus', dependencies=('sales', 'billing'))"
    cured = check_modules(declare(modules, [found]))
    assert find_undeclared(cured) == []
    assert cured.order.index("bonus") > cured.order.index("billing")


def test_what_would_close_a_cycle_is_to_be_cut_and_is_not_declared() -> None:
    pay = Module("pay", dependencies=("shop",), publishes=(Paid,))
    shop = Module("shop", subscribes=(EventHandler("shop.on_paid", Paid, _nothing),))
    (found,) = find_undeclared(check_modules([pay, shop]))
    assert found.cycle == ("shop", "pay", "shop")
    assert found.cure.startswith("cut: declaring it would close the cycle shop -> pay -> shop")
    assert declare([pay, shop], [found]) == [pay, shop]


class Foreign:
    """A module that is no dataclass."""

    name = "foreign"
    dependencies = ()
    migrations = None
    commands = ()
    publishes = ()
    subscribes = (EventHandler("foreign.on_paid", Paid, _nothing),)


def test_a_module_of_another_make_can_be_declared_for_too() -> None:
    modules = [Module("pay", publishes=(Paid,)), Foreign()]
    cured = check_modules(declare(modules, find_undeclared(check_modules(modules))))
    assert (cured.order, find_undeclared(cured)) == (("pay", "foreign"), [])
