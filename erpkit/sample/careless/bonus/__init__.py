"""Bonus: points for what customers paid. It leans on billing, and does not say so."""

from pathlib import Path

from erpkit.modules import EventHandler, Module
from erpkit.sample.billing.messages import PaymentReceived
from erpkit.sample.careless.bonus import events

module = Module(
    name="bonus",
    dependencies=("sales",),
    migrations=Path(__file__).parent / "migrations",
    subscribes=(EventHandler("bonus.on_payment_received", PaymentReceived, events.give_points),),
)
