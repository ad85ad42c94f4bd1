"""Inventory over HTTP, under /inventory."""

from fastapi import APIRouter

from erpkit.app.http import TenantCall
from erpkit.sample.inventory import sql

router = APIRouter()


@router.get("/stock")
def list_stock(call: TenantCall) -> list[sql.InventoryStockRow]:
    """List the stock of every product."""
    return sql.list_stock(call.connection)
