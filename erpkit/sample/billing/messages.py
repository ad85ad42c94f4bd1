"""The commands, events and queries of billing."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from erpkit.modules import Query


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


@dataclass(frozen=True)
class Balance:
    """What an invoice is over, and what was paid on it, in euros."""

    invoiced: Decimal
    paid: Decimal

    @property
    def due(self) -> Decimal:
        """What is still to be paid."""
        return self.invoiced - self.paid


@dataclass(frozen=True)
class GetBalance(Query[Balance]):
    """Ask how an invoice stands."""

    invoice_id: UUID
