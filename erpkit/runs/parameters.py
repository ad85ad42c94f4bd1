"""A notebook's parameters: declared once, by its parameters cell; and the values that a run gives to them."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Optional

from erpkit.errors import UsageError
from erpkit.near import did_you_mean
from erpkit.runs.secrets import refuse_password

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
    """Return the type that the text of an annotation names; raises UsageError for one that a parameter cannot have."""
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


_PLAN_ID = re.compile(r"[a-z][a-z_-]*-[0-9a-z]+")
_INJECTED = "# Parameters"  # the first line of the cell that papermill and jupyter-scheduler put in


def validate_parameters(parameters: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of `given`, which may be strings from a command line, against their declarations.

    Returns what JSON can hold: numbers, strings, lists; dates are ISO text, which `check_parameters` turns back. Raises
    UsageError for an unknown name, a value of another type, a `confirm` that is not a plan's id, and a value with a password in
    it, which every output of the run would repeat; for a wrong default, too.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in declared:
            raise UsageError(f"there is no parameter {name!r}{_suggest(name, list(declared))}")
    for parameter in parameters:
        if parameter.name not in given:
            _check(parameter, parameter.default)
    return {name: _check(declared[name], value) for name, value in given.items()}


def check_parameters(namespace: dict[str, Any]) -> None:
    """Check the parameters of the running notebook, and convert what came as text; call it as `check_parameters(globals())`.

    papermill's own command line puts in whatever it is given (`-p dry_run flase` becomes a true string, `-p dryrun false` a
    variable that is never read). Raises UsageError.
    """
    annotations = dict(namespace.get("__annotations__", {}))
    for name in _unknown_names(namespace.get("In", ()), annotations):
        raise UsageError(f"there is no parameter {name!r}{_suggest(name, list(annotations))}")
    for name, annotation in annotations.items():
        if name in namespace and not name.startswith("_"):
            refuse_password(name, namespace[name])
            kind = type_of(name, annotation) if isinstance(annotation, str) else annotation
            namespace[name] = convert(name, _type_name(annotation), kind, namespace[name])


def convert(name: str, annotation: str, kind: Any, value: Any) -> Any:
    """Return `value` as a `kind`; text is read as a command line means it, lists as JSON or with commas."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow to import

    adapter = _adapter(name, annotation, kind)
    try:
        is_text = isinstance(value, str)
        converted = _from_text(adapter, annotation, value) if is_text else adapter.validate_python(value)
    except ValidationError:
        raise UsageError(f"parameter {name} = {value!r} is not of type {annotation}") from None
    if name == "confirm" and converted and not _PLAN_ID.fullmatch(str(converted)):
        raise UsageError(f"parameter confirm = {value!r} is not the id of a plan, such as migrate-2b0323b455")
    return converted


def may_write(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> bool:
    """Tell whether a run with these values may change something: it is neither a dry run nor a rehearsal, or it confirms a plan."""
    effective = {parameter.name: parameter.default for parameter in parameters} | dict(values)
    return effective.get("dry_run") is False or effective.get("rehearse") is False or bool(effective.get("confirm"))


def _check(parameter: Parameter, value: Any) -> Any:
    refuse_password(parameter.name, value)
    converted = convert(parameter.name, parameter.annotation, parameter.type, value)
    refuse_password(parameter.name, converted)  # JSON text has become what it means
    return _adapter(parameter.name, parameter.annotation, parameter.type).dump_python(converted, mode="json")


def _adapter(name: str, annotation: str, kind: Any) -> Any:
    from pydantic import TypeAdapter  # noqa: PLC0415
    from pydantic.errors import PydanticSchemaGenerationError  # noqa: PLC0415

    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        raise UsageError(f"parameter {name}: {annotation} is not a type that a parameter can have") from None


def _from_text(adapter: Any, annotation: str, text: str) -> Any:
    """Read text as a type, as a command line gives it: `none` where None is allowed, commas or JSON for a list."""
    if re.search(r"\bNone\b|\bOptional\b", annotation) and text.lower() in ("", "none", "null"):
        return adapter.validate_python(text if "str" in annotation and text.lower() != "none" else None)
    if re.match(r"(Optional\[)?(list|dict)\b", annotation):
        return adapter.validate_python(_structure(text))
    return adapter.validate_strings(text)


def _structure(text: str) -> Any:
    if text.strip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return [part.strip() for part in text.split(",")] if text.strip() else []


def _unknown_names(cells: Sequence[str], annotations: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names that papermill's injected cell sets and no cell before it does."""
    injected = next((index for index, cell in enumerate(cells) if cell.startswith(_INJECTED)), None)
    if injected is None:
        return
    known = {name for cell in cells[:injected] for name in _assigned(cell)} | set(annotations)
    yield from (name for name in _assigned(cells[injected]) if name not in known)


def _assigned(source: str) -> Iterator[str]:
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _type_name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return annotation.__name__ if plain else str(annotation).replace("typing.", "")


def _suggest(name: str, known: Sequence[str]) -> str:
    return f"; {did_you_mean(name, known)}" if known else ": the notebook has none"
