"""How billing carries out its commands."""

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.billing import sql
from erpkit.sample.billing.messages import PaymentReceived, ReceivePayment


def receive_payment(command: ReceivePayment, context: Context) -> None:
    """Write down the payment; an invoice that does not exist refuses it."""
    if not sql.has_invoice(context.connection, command.invoice_id):
        raise ErpkitError(f"there is no invoice {command.invoice_id}")
    sql.add_payment(context.connection, command.invoice_id, command.amount, command.paid_on)
    context.publish(PaymentReceived(command.invoice_id, command.amount, command.paid_on))
