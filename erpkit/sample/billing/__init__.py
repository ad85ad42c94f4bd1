"""Billing: invoices and what was paid on them, in euros."""

from pathlib import Path

from erpkit.modules import CommandHandler, EventHandler, Module, QueryHandler
from erpkit.sample.billing import answers, commands, events
from erpkit.sample.billing.messages import GetBalance, InvoiceCreated, PaymentReceived, ReceivePayment
from erpkit.sample.inventory.messages import StockReserved

module = Module(
    name="billing",
    dependencies=("inventory",),
    migrations=Path(__file__).parent / "migrations",
    queries=Path(__file__).parent / "queries",
    commands=(CommandHandler(ReceivePayment, commands.receive_payment),),
    answers=(QueryHandler(GetBalance, answers.get_balance),),
    publishes=(InvoiceCreated, PaymentReceived),
    subscribes=(
        EventHandler("billing.on_stock_reserved", StockReserved, events.create_invoice),
        EventHandler(
            "billing.on_invoice_created",
            InvoiceCreated,
            events.book_invoice,
            replayable=True,
            writes=("billing_ledger",),
            any_order=True,
        ),
        EventHandler(
            "billing.on_payment_received",
            PaymentReceived,
            events.book_payment,
            replayable=True,
            ordered_by=lambda event: str(event.invoice_id),
            writes=("billing_ledger",),
            any_order=True,
        ),
    ),
)
