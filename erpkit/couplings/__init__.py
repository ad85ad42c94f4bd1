"""Couplings between modules whether they are declared or not: imports, tables and queries, found in code and database."""

from erpkit.couplings.find import find_couplings, inspect_modules

__all__ = ["find_couplings", "inspect_modules"]
