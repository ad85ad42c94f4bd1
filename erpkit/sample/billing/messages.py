"""The commands and events of billing."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True)
class ReceivePayment:
    """Take a customer's money for an invoice."""

    invoice_id: UUID
    amount: Decimal
    paid_on: date


@dataclass(frozen=True)
class InvoiceCreated:
    """An invoice was made out; the amount is in euros."""

    invoice_id: UUID
    order_id: UUID
    amount: Decimal
    issued_on: date


@dataclass(frozen=True)
class PaymentReceived:
    """Money came in for an invoice."""

    invoice_id: UUID
    amount: Decimal
    paid_on: date
