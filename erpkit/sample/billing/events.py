"""What billing does when something happened."""

from uuid import uuid5

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.billing.messages import InvoiceCreated, PaymentReceived
from erpkit.sample.inventory.messages import StockReserved


def create_invoice(event: StockReserved, context: Context) -> None:
    """Make out the invoice for an order that can be delivered; without an exchange rate that is not possible."""
    row = context.connection.execute("SELECT billing_in_euros(%s, %s)", [event.total, event.currency]).fetchone()
    if row is None or row[0] is None:
        raise ErpkitError(f"no exchange rate for {event.currency}")
    invoice = InvoiceCreated(uuid5(event.order_id, "invoice"), event.order_id, row[0], event.placed_on)
    context.connection.execute(
        "INSERT INTO billing_invoices (invoice_id, order_id, amount, issued_on) VALUES (%s, %s, %s, %s)",
        [invoice.invoice_id, invoice.order_id, invoice.amount, invoice.issued_on],
    )
    context.publish(invoice)


def book_invoice(event: InvoiceCreated, context: Context) -> None:
    """Enter the invoice in the ledger, a projection with one line an invoice: it may be replayed."""
    context.connection.execute(
        "INSERT INTO billing_ledger (invoice_id, invoiced, issued_on) VALUES (%s, %s, %s) "
        "ON CONFLICT (invoice_id) DO UPDATE SET invoiced = EXCLUDED.invoiced, issued_on = EXCLUDED.issued_on",
        [event.invoice_id, event.amount, event.issued_on],
    )


def book_payment(event: PaymentReceived, context: Context) -> None:
    """Add up what was paid on the invoice anew, so that a replay changes nothing."""
    context.connection.execute(
        "UPDATE billing_ledger SET paid = (SELECT sum(amount) FROM billing_payments WHERE invoice_id = %s) WHERE invoice_id = %s",
        [event.invoice_id, event.invoice_id],
    )
