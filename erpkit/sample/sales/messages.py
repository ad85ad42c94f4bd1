"""The commands and events of sales."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True)
class RegisterCustomer:
    """Take on a customer."""

    customer_id: UUID
    name: str
    country: str


@dataclass(frozen=True)
class Line:
    """So many of one product."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class PlaceOrder:
    """Order products, at the catalog's prices."""

    order_id: UUID
    customer_id: UUID
    placed_on: date
    lines: tuple[Line, ...]
    currency: str = "EUR"


@dataclass(frozen=True)
class CustomerRegistered:
    """A customer was taken on."""

    customer_id: UUID
    name: str


@dataclass(frozen=True)
class OrderPlaced:
    """An order was placed; `total` is in the order's currency."""

    order_id: UUID
    customer_id: UUID
    placed_on: date
    lines: tuple[Line, ...]
    total: Decimal
    currency: str
