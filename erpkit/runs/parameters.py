"""A notebook's parameters: declared once, by its parameters cell, and checked before they are used."""

from __future__ import annotations

import ast
import io
import json
import tokenize
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from erpkit.errors import UsageError

__all__ = ["Parameter", "check_parameters", "read_parameters", "validate_parameters"]

# What a parameter may be annotated with; anything else in an annotation is an error, as it would have to be run.
_TYPES: dict[str, object] = {
    "bool": bool, "date": date, "datetime": datetime, "Decimal": Decimal, "dict": dict, "float": float, "int": int,
    "list": list, "Literal": Literal, "str": str,
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


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook: its name, the text of its annotation, its default and its help."""

    name: str
    annotation: str
    default: Any
    help: str = ""

    @property
    def type(self) -> Any:
        """The annotation as a type."""
        return _type(self.name, self.annotation)


def read_parameters(source: str) -> list[Parameter]:
    """Read the declarations in the source of a parameters cell: `name: type = default  # help`.

    An assignment without annotation declares the type of its default. Raises UsageError for one whose default is no literal.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UsageError(f"the parameters cell is not valid Python: line {error.lineno}: {error.msg}") from None
    comments = _comments(source)
    parameters = []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, annotation, value = node.target.id, ast.unparse(node.annotation), node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, annotation, value = node.targets[0].id, "", node.value
        else:
            continue
        default = _literal(name, value)
        help_ = next(
            (comments[n] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in comments), ""
        )
        parameters.append(Parameter(name, annotation or type(default).__name__, default, help_))
    return parameters


def validate_parameters(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of `given`, which may be strings from a command line, against their declarations.

    Returns plain values: numbers, strings, lists. Raises UsageError for an unknown name, a value of another type, and a
    value with a password in it, which every output of the run would repeat.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    values = {}
    for name, value in given.items():
        if name not in declared:
            raise UsageError(f"there is no parameter {name!r}{_suggest(name, list(declared))}")
        refuse_password(name, value)
        converted = convert(name, declared[name].annotation, declared[name].type, value)
        values[name] = converted.isoformat() if isinstance(converted, date) else converted
    return values


def check_parameters(namespace: dict[str, Any]) -> None:
    """Check the parameters of the running notebook, and convert what came as text; call it as `check_parameters(globals())`.

    papermill's own command line puts in whatever it is given (`-p dry_run flase` becomes a true string). Raises UsageError.
    """
    for name, annotation in dict(namespace.get("__annotations__", {})).items():
        if name in namespace and not name.startswith("_"):
            refuse_password(name, namespace[name])
            namespace[name] = convert(name, _type_name(annotation), annotation, namespace[name])


def convert(name: str, annotation: str, kind: Any, value: Any) -> Any:
    """Return `value` as a `kind`; text is read as a command line means it, lists as JSON or with commas."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    if isinstance(value, str) and annotation.startswith(("list", "dict")):
        value = _structure(value)
    try:
        if isinstance(value, str):
            return adapter.validate_strings(value)
        return adapter.validate_python(value)
    except ValidationError:
        raise UsageError(f"parameter {name} = {value!r} is not of type {annotation}") from None


def refuse_password(name: str, value: object) -> None:
    """Raise UsageError for a connection string with a password: papermill writes parameters into its output."""
    import re  # noqa: PLC0415

    if isinstance(value, str) and re.search(r"password\s*=|://[^/@\s:]*:[^@\s/]+@", value, re.IGNORECASE):
        raise UsageError(
            f"parameter {name} holds a password, and a run writes its parameters down: use ERPKIT_DATABASE, "
            "pg_service.conf or .pgpass"
        )


def _structure(text: str) -> Any:
    if text.strip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _literal(name: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise UsageError(f"parameter {name}: its default must be a literal, not {ast.unparse(node)}") from None


def _type(name: str, annotation: str) -> Any:
    tree = ast.parse(annotation, mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not all(isinstance(node, _TYPE_NODES) for node in ast.walk(tree)) or names - set(_TYPES):
        raise UsageError(f"parameter {name}: {annotation} is not a type that a parameter can have")
    return eval(compile(tree, "<parameters>", "eval"), {"__builtins__": {}}, dict(_TYPES))


def _type_name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return annotation.__name__ if plain else str(annotation)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}


def _suggest(name: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}" if known else "; it has none"
