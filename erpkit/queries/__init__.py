"""Typed queries: sqlc's files of each module, Python generated from them, and a check against every tenant's schema."""

from erpkit.queries.check import QueryCheck, Statement, check_queries, read_each_module, read_statements
from erpkit.queries.generate import BrokenModulesError, GeneratedFile, generate, queries_folder, without_generated_code

__all__ = [
    "BrokenModulesError",
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
