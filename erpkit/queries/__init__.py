"""Typed queries: sqlc's files beside each module, Python generated from them, and a check against every tenant's schema."""

from erpkit.queries.check import BrokenQuery, QueryCheck, Statement, check_queries, read_each_module, read_statements
from erpkit.queries.generate import BrokenModulesError, GeneratedFile, generate, without_generated_code
from erpkit.queries.sqlc import queries_folder

__all__ = [
    "BrokenModulesError",
    "BrokenQuery",
    "GeneratedFile",
    "QueryCheck",
    "Statement",
    "check_queries",
    "generate",
    "queries_folder",
    "read_each_module",
    "read_statements",
    "without_generated_code",
]
