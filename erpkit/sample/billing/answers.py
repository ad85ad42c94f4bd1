"""What billing answers when it is asked."""

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.billing import sql
from erpkit.sample.billing.messages import Balance, GetBalance


def get_balance(query: GetBalance, context: Context) -> Balance:
    """Read the invoice's line in the ledger; one that is not booked has none."""
    line = sql.get_balance(context.connection, query.invoice_id)
    if line is None:
        raise ErpkitError(f"invoice {query.invoice_id} is not in the ledger")
    return Balance(line.invoiced, line.paid)
