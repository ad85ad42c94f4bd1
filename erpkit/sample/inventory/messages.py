"""The commands and events of inventory."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID


@dataclass(frozen=True)
class ReceiveStock:
    """Put goods on the shelf."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class StockReceived:
    """Goods were put on the shelf; version 1 called the pieces `quantity`."""

    sku: str
    pieces: int


@dataclass(frozen=True)
class StockReserved:
    """Everything in an order is kept for it; it may be invoiced."""

    order_id: UUID
    customer_id: UUID
    placed_on: date
    total: Decimal
    currency: str


@dataclass(frozen=True)
class StockShort:
    """An order could not be served: so many pieces are lacking, by product."""

    order_id: UUID
    lacking: dict[str, int]
