"""How inventory's old events are read today."""

from typing import Any


def name_pieces(payload: dict[str, Any]) -> dict[str, Any]:
    """Make a StockReceived of version 1, which called its pieces `quantity`, one of version 2."""
    payload["pieces"] = payload.pop("quantity")
    return payload
