"""What bonus does when something happened."""

from erpkit.events import Context
from erpkit.sample.billing import sql
from erpkit.sample.billing.messages import PaymentReceived


def give_points(event: PaymentReceived, context: Context) -> None:
    """Give a point for each ten euros that were paid on an invoice."""
    if sql.has_invoice(context.connection, event.invoice_id):
        context.connection.execute(
            "INSERT INTO bonus_points (invoice_id, points) VALUES (%s, %s)", [event.invoice_id, int(event.amount // 10)]
        )
