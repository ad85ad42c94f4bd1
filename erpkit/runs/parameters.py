"""A notebook's parameters: declared once, by its parameters cell, and read from that cell's syntax tree."""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Optional

from erpkit.errors import UsageError

__all__ = ["Parameter", "read_parameters", "type_of"]

# What a parameter may be annotated with; anything else in an annotation is an error, as it would have to be run.
_TYPES: dict[str, object] = {
    "bool": bool, "date": date, "datetime": datetime, "Decimal": Decimal, "dict": dict, "float": float, "int": int,
    "list": list, "Literal": Literal, "None": None, "Optional": Optional, "str": str,
}  # fmt: skip
_TYPE_NODES = (
    ast.Expression,
    ast.Name,
    ast.Load,
    ast.Subscript,
    ast.Constant,
    ast.Tuple,
    ast.BinOp,
    ast.BitOr,
    ast.UnaryOp,
    ast.USub,
)
_MADE_BY_CALL = {"date": date, "datetime": datetime, "Decimal": Decimal}  # types without a literal of their own


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook: its name, the text of its annotation, its default and its help."""

    name: str
    annotation: str
    default: Any
    help: str = ""

    @property
    def type(self) -> Any:
        """The annotation as a type; raises UsageError for one that a parameter cannot have."""
        return type_of(self.name, self.annotation)


def read_parameters(source: str) -> list[Parameter]:
    """Read the declarations in the source of a parameters cell: `name: type = default  # help`.

    An assignment without annotation declares the type of its default. The help is the comment on the value's lines, or else
    the comment lines right above it. Raises UsageError, naming the parameter, for one that is declared twice, that has no
    default, or whose default is neither a literal nor a `date(…)`, `datetime(…)` or `Decimal(…)` of literals.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UsageError(f"the parameters cell is not valid Python: line {error.lineno}: {error.msg}") from None
    comments = _Comments(source)
    parameters: dict[str, Parameter] = {}
    for node in tree.body:
        for name, annotation, value in _declared(node):
            if name in parameters:
                raise UsageError(f"parameter {name} is declared twice: keep one of them")
            default = _literal(name, value)
            annotation = annotation or type(default).__name__
            parameters[name] = Parameter(name, annotation, default, comments.help(node))
    return list(parameters.values())


def _declared(node: ast.stmt) -> list[tuple[str, str, ast.expr | None]]:
    """Return the name, the annotation ("" for none) and the default of what a statement declares."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [(node.target.id, ast.unparse(node.annotation), node.value)]
    if isinstance(node, ast.Assign):
        return [(target.id, "", node.value) for target in node.targets if isinstance(target, ast.Name)]
    return []


def _literal(name: str, node: ast.expr | None) -> Any:
    if node is None:
        raise UsageError(f"parameter {name} has no default: write {name}: … = …")
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MADE_BY_CALL:
            return _MADE_BY_CALL[node.func.id](*map(ast.literal_eval, node.args))
        return ast.literal_eval(node)
    except (ValueError, TypeError, ArithmeticError):
        raise UsageError(f"parameter {name}: its default must be a literal, not {ast.unparse(node)}") from None


def type_of(name: str, annotation: str) -> Any:
    """Return what the text of an annotation stands for; raises UsageError for what is no type of a parameter."""
    tree = ast.parse(annotation, mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    try:
        if not all(isinstance(node, _TYPE_NODES) for node in ast.walk(tree)) or names - set(_TYPES):
            raise TypeError
        return eval(compile(tree, "<parameters>", "eval"), {"__builtins__": {}}, dict(_TYPES))
    except TypeError:
        raise UsageError(f"parameter {name}: {annotation} is not a type that a parameter can have") from None


class _Comments:
    """The comments of a cell, by line."""

    def __init__(self, source: str) -> None:
        lines = source.splitlines()
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT]
        self._text = {token.start[0]: token.string.lstrip("#").strip() for token in tokens}
        self._alone = {n for n in self._text if lines[n - 1].lstrip().startswith("#")}

    def help(self, node: ast.stmt) -> str:
        """Return the comment of a statement: at its ends, above it, or on any of its lines."""
        first, last = node.lineno, node.end_lineno or node.lineno
        at_the_ends = self._text.get(first) or self._text.get(last)
        inside = [self._text[n] for n in range(first, last + 1) if n in self._text]
        return at_the_ends or self._above(first) or " ".join(inside)

    def _above(self, first: int) -> str:
        lines = []
        while (first := first - 1) in self._alone:
            lines.append(self._text[first])
        return " ".join(reversed(lines))
