"""A small ERP to try erpkit on: catalog, sales, inventory and billing, working through commands and events."""
