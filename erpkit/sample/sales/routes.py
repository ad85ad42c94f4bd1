"""Sales over HTTP, under /sales."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from erpkit.app.http import TenantCall
from erpkit.sample.sales import sql
from erpkit.sample.sales.messages import PlaceOrder

router = APIRouter()


@router.get("/orders")
def list_orders(call: TenantCall, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> list[sql.ListOrdersRow]:
    """List the newest orders."""
    return sql.list_orders(call.connection, limit)


@router.post("/orders", status_code=201)
def place_order(order: PlaceOrder, call: TenantCall) -> UUID:
    """Place an order, whose id the client chooses: sent twice, it is refused the second time."""
    call.send(order)
    return order.order_id
