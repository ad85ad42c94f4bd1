"""The catalog's commands and events."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class AddProduct:
    """Offer a new product."""

    sku: str
    name: str
    category: str
    price: Decimal


@dataclass(frozen=True)
class ChangePrice:
    """Sell a product for another price from now on."""

    sku: str
    price: Decimal


@dataclass(frozen=True)
class ProductAdded:
    """A product is offered."""

    sku: str
    price: Decimal


@dataclass(frozen=True)
class PriceChanged:
    """A product has another price."""

    sku: str
    price: Decimal
