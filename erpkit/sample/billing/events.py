"""What billing does when something happened."""

from uuid import uuid5

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.billing import sql
from erpkit.sample.billing.messages import InvoiceCreated, PaymentReceived
from erpkit.sample.inventory.messages import StockReserved


def create_invoice(event: StockReserved, context: Context) -> None:
    """Make out the invoice for an order that can be delivered; without an exchange rate that is not possible."""
    amount = sql.in_euros(context.connection, event.total, event.currency)
    if amount is None:
        raise ErpkitError(f"no exchange rate for {event.currency}")
    invoice = InvoiceCreated(uuid5(event.order_id, "invoice"), event.order_id, amount, event.placed_on)
    sql.add_invoice(context.connection, invoice.invoice_id, invoice.order_id, invoice.amount, invoice.issued_on)
    context.publish(invoice)


def book_invoice(event: InvoiceCreated, context: Context) -> None:
    """Enter the invoice in the ledger, a projection with one line an invoice: it may be replayed."""
    sql.book_invoice(context.connection, event.invoice_id, event.amount, event.issued_on)


def book_payment(event: PaymentReceived, context: Context) -> None:
    """Add up what was paid on the invoice anew, so that a replay changes nothing."""
    sql.book_payments(context.connection, event.invoice_id)
