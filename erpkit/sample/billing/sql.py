"""The queries of billing, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

HAS_INVOICE: Final = """
SELECT EXISTS (SELECT 1 FROM billing_invoices WHERE invoice_id = %(invoice_id)s)
"""

LIST_INVOICES: Final = """
SELECT invoice_id, amount, issued_on FROM billing_invoices ORDER BY issued_on, invoice_id
"""

IN_EUROS: Final = """
SELECT billing_in_euros(%(amount)s, %(currency)s)
"""

ADD_INVOICE: Final = """
INSERT INTO billing_invoices (invoice_id, order_id, amount, issued_on)
VALUES (%(invoice_id)s, %(order_id)s, %(amount)s, %(issued_on)s)
"""

ADD_PAYMENT: Final = """
INSERT INTO billing_payments (invoice_id, amount, paid_on)
VALUES (%(invoice_id)s, %(amount)s, %(paid_on)s)
"""

BOOK_INVOICE: Final = """
INSERT INTO billing_ledger (invoice_id, invoiced, issued_on, paid)
SELECT %(invoice_id)s, %(amount)s, %(issued_on)s, coalesce(sum(p.amount), 0)
FROM billing_payments p WHERE p.invoice_id = %(invoice_id)s
ON CONFLICT (invoice_id) DO UPDATE SET invoiced = EXCLUDED.invoiced, issued_on = EXCLUDED.issued_on
"""

BOOK_PAYMENTS: Final = """
UPDATE billing_ledger
SET paid = (SELECT sum(p.amount) FROM billing_payments p WHERE p.invoice_id = %(invoice_id)s)
WHERE billing_ledger.invoice_id = %(invoice_id)s
"""

GET_BALANCE: Final = """
SELECT invoiced, paid FROM billing_ledger WHERE invoice_id = %(invoice_id)s
"""


@dataclass(frozen=True)
class ListInvoicesRow:
    """A row of `list_invoices`."""

    invoice_id: UUID
    amount: Decimal
    issued_on: date


@dataclass(frozen=True)
class GetBalanceRow:
    """A row of `get_balance`."""

    invoiced: Decimal
    paid: Decimal


def has_invoice(connection: Connection[Any], invoice_id: UUID) -> bool | None:
    """Whether there is an invoice of this id."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(HAS_INVOICE, {"invoice_id": invoice_id})
    row = cursor.fetchone()
    found: bool | None = None if row is None else row[0]
    return found


def list_invoices(connection: Connection[Any]) -> list[ListInvoicesRow]:
    """List all invoices, the oldest first."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(LIST_INVOICES, {})
    return [ListInvoicesRow(*row) for row in cursor]


def in_euros(connection: Connection[Any], amount: Decimal, currency: str) -> Decimal | None:
    """Convert an amount at the present rate; NULL without a rate for its currency."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(IN_EUROS, {"amount": amount, "currency": currency})
    row = cursor.fetchone()
    found: Decimal | None = None if row is None else row[0]
    return found


def add_invoice(
    connection: Connection[Any], invoice_id: UUID, order_id: UUID, amount: Decimal, issued_on: date
) -> None:
    """Write an invoice down."""
    connection.execute(
        ADD_INVOICE, {"invoice_id": invoice_id, "order_id": order_id, "amount": amount, "issued_on": issued_on}
    )


def add_payment(connection: Connection[Any], invoice_id: UUID, amount: Decimal, paid_on: date) -> None:
    """Write a payment down."""
    connection.execute(ADD_PAYMENT, {"invoice_id": invoice_id, "amount": amount, "paid_on": paid_on})


def book_invoice(connection: Connection[Any], invoice_id: UUID, amount: Decimal, issued_on: date) -> None:
    """Enter an invoice in the ledger, or write its line anew. Payments whose events came first are added up."""
    connection.execute(BOOK_INVOICE, {"invoice_id": invoice_id, "amount": amount, "issued_on": issued_on})


def book_payments(connection: Connection[Any], invoice_id: UUID) -> None:
    """Add up what was paid on an invoice."""
    connection.execute(BOOK_PAYMENTS, {"invoice_id": invoice_id})


def get_balance(connection: Connection[Any], invoice_id: UUID) -> GetBalanceRow | None:
    """Get what an invoice is over and what was paid on it."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(GET_BALANCE, {"invoice_id": invoice_id})
    row = cursor.fetchone()
    return None if row is None else GetBalanceRow(*row)
