"""Typed queries: sqlc's files beside each module, Python generated from them, and a check against every tenant's schema."""

from erpkit.queries.check import BrokenQuery, Statement, check_queries, read_statements
from erpkit.queries.generate import GeneratedFile, generate
from erpkit.queries.placeholders import without_generated_code

__all__ = [
    "BrokenQuery",
    "GeneratedFile",
    "Statement",
    "check_queries",
    "generate",
    "read_statements",
    "without_generated_code",
]
