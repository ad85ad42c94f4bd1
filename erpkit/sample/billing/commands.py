"""How billing carries out its commands."""

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.billing.messages import PaymentReceived, ReceivePayment


def receive_payment(command: ReceivePayment, context: Context) -> None:
    """Write down the payment; an invoice that does not exist refuses it."""
    found = context.connection.execute(
        "SELECT FROM billing_invoices WHERE invoice_id = %s", [command.invoice_id]
    ).fetchone()
    if found is None:
        raise ErpkitError(f"there is no invoice {command.invoice_id}")
    context.connection.execute(
        "INSERT INTO billing_payments (invoice_id, amount, paid_on) VALUES (%s, %s, %s)",
        [command.invoice_id, command.amount, command.paid_on],
    )
    context.publish(PaymentReceived(command.invoice_id, command.amount, command.paid_on))
