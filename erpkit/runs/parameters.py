"""A notebook's parameters: declared once, by its parameters cell; and the values that a run gives to them."""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Optional

from erpkit.errors import UsageError
from erpkit.near import did_you_mean
from erpkit.runs.secrets import refuse_password

CONFIRMS = ("confirm", "confirm_mend")  # the ids of plans: another one each time, of runs that are the same work

# What a parameter may be annotated with; anything else in an annotation is an error, as it would have to be run.
_TYPES: dict[str, object] = {
    "AwareDatetime": datetime, "bool": bool, "date": date, "datetime": datetime, "Decimal": Decimal, "dict": dict, "float": float,
    "int": int, "list": list, "Literal": Literal, "None": None, "Optional": Optional, "str": str,
}  # fmt: skip
_TYPE_NODES = (
    ast.Expression,
    ast.Name,
    ast.Attribute,
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
class Expression:
    """A default that only the kernel can evaluate, such as `Path("x")` or `60 * 60`, as it is written."""

    text: str

    def __repr__(self) -> str:
        return self.text


REQUIRED = Expression("")  # the default of `x: int`, which has none


@dataclass(frozen=True)
class Parameter:
    """One parameter of a notebook: its name, the text of its annotation, its default and its help.

    The default is a literal's value, or an `Expression`. Without an annotation it is the type of a literal; "" means that no type
    is known, so that no value can be checked: the notebook runs, but the parameter cannot be set.
    """

    name: str
    annotation: str
    default: Any
    help: str = ""

    @property
    def type(self) -> Any:
        """The annotation as a type; raises UsageError for one that a parameter cannot have."""
        return type_of(self.name, self.annotation)

    @property
    def is_checked(self) -> bool:
        """Whether values can be checked against its type, so that it can be set."""
        try:
            return bool(self.annotation) and _adapter(self.name, self.annotation, self.type) is not None
        except UsageError:
            return False

    @property
    def is_required(self) -> bool:
        """Whether each run must set it: it is declared without a default."""
        return self.default is REQUIRED

    @property
    def shown(self) -> str:
        """The declaration, as it is written in the cell."""
        typed = f"{self.name}: {self.annotation}" if self.annotation else self.name
        return f"{typed}  (must be given)" if self.is_required else f"{typed} = {self.default!r}"


def read_parameters(source: str) -> list[Parameter]:
    """Read the declarations in the source of a parameters cell: `name: type = default  # help`.

    An assignment without annotation declares the type of its default. The help is the comment on the value's lines, or else
    the comment lines right above it. `x: int` must be given; of a name that is declared twice the last one holds. Lines for
    IPython, such as `%load_ext`, are passed over. Raises UsageError for a cell that is not Python.
    """
    tree, source = _parse(source)
    comments = _Comments(source)
    parameters: dict[str, Parameter] = {}
    for node in tree.body:
        for name, annotation, value in _declared(node):
            default = _default(name, value)
            annotation = annotation or _type_of_default(default)
            parameters[name] = Parameter(name, annotation, default, comments.help(node))
    return list(parameters.values())


def read_cells(sources: Sequence[str]) -> tuple[Parameter, ...]:
    """Read the declarations of all cells that are tagged `parameters`.

    papermill injects values after the first of them: what a later one assigns again cannot be set, and has no type here.
    """
    first, *later = [read_parameters(source) for source in sources] or [[]]
    again = {parameter.name: replace(parameter, annotation=_LATER) for cell in later for parameter in cell}
    return tuple(({parameter.name: parameter for parameter in first} | again).values())


_LATER = "assigned by a second parameters cell"
_MAGIC = re.compile(r"^(\s*)[%!?].*$")
_MAGIC_VALUE = re.compile(r"^(\s*[\w.]+\s*=\s*)[%!].*$")


def _parse(source: str) -> tuple[ast.Module, str]:
    """Return the cell as Python, and the source that was read: IPython's lines are replaced where it is none without."""
    try:
        return ast.parse(source), source
    except SyntaxError as error:
        plain = "\n".join(_MAGIC.sub(r"\1pass", _MAGIC_VALUE.sub(r"\1object()", line)) for line in source.split("\n"))
        try:
            return ast.parse(plain), plain
        except SyntaxError:
            raise UsageError(f"the parameters cell is not valid Python: line {error.lineno}: {error.msg}") from None


def _declared(node: ast.stmt) -> list[tuple[str, str, ast.expr | None]]:
    """Return the name, the annotation ("" for none) and the default of what a statement declares."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [(node.target.id, ast.unparse(node.annotation), node.value)]
    if isinstance(node, ast.Assign):
        return [(target.id, "", node.value) for target in node.targets if isinstance(target, ast.Name)]
    return []


def _default(name: str, node: ast.expr | None) -> Any:
    if node is None:
        return REQUIRED
    try:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MADE_BY_CALL:
            values = [ast.literal_eval(value) for value in node.args]
            if not node.keywords:
                return _made(name, node, values)
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return Expression(ast.unparse(node))


def _made(name: str, node: ast.Call, values: Sequence[Any]) -> Any:
    try:
        return _MADE_BY_CALL[node.func.id](*values)  # type: ignore[attr-defined]
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UsageError(f"parameter {name}: its default {ast.unparse(node)} cannot be made: {error}") from None


def _type_of_default(default: Any) -> str:
    """Return the name of a literal's type, or "" for one that a value on a command line cannot be checked against."""
    name = type(default).__name__
    return name if name in _TYPES else ""


def type_of(name: str, annotation: str) -> Any:
    """Return the type that the text of an annotation names; raises UsageError for one that a parameter cannot have.

    `datetime.date` is `date`: from which module a name comes does not matter.
    """
    try:
        tree = _WithoutModules().visit(ast.parse(annotation, mode="eval"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if not all(isinstance(node, _TYPE_NODES) for node in ast.walk(tree)) or names - set(_TYPES):
            raise TypeError
        return eval(compile(tree, "<parameters>", "eval"), {"__builtins__": {}}, _TYPES | _slow_types(names))
    except (TypeError, SyntaxError):
        raise UsageError(f"parameter {name}: {annotation} is not a type that a parameter can have") from None


def _slow_types(names: set[str]) -> dict[str, object]:
    """Return the types that are slow to import, where they are used."""
    if "AwareDatetime" not in names:
        return {}
    from pydantic import AwareDatetime  # noqa: PLC0415

    return {"AwareDatetime": AwareDatetime}


class _WithoutModules(ast.NodeTransformer):
    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Return the last name alone."""
        return ast.copy_location(ast.Name(node.attr, ast.Load()), node)


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
    it, which every output of the run would repeat; for a wrong default, too, and for one that must be given and is not.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    for name in given:
        if name not in declared:
            raise UsageError(f"there is no parameter {name!r}{_suggest(name, list(declared))}")
        _check_settable(declared[name])
    for parameter in parameters:
        if parameter.name not in given:
            _check_default(parameter)
    return {name: _check(declared[name], value) for name, value in given.items()}


def python_values(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `validate_parameters` returned as the values that the notebook is to get: dates as dates, `nan` as a number."""
    declared = {parameter.name: parameter for parameter in parameters}
    adapters = {name: _adapter(name, declared[name].annotation, declared[name].type) for name in values}
    return {name: adapters[name].validate_python(value) for name, value in values.items()}


def _check_settable(parameter: Parameter) -> None:
    if parameter.annotation == _LATER:
        raise UsageError(
            f"parameter {parameter.name} cannot be set: a second cell tagged parameters assigns it again: keep one such cell"
        )
    if not parameter.annotation:
        raise UsageError(
            f"parameter {parameter.name} cannot be set, as its value could not be checked: "
            f"write its type, {parameter.name}: TYPE = {parameter.default!r}"
        )


def _check_default(parameter: Parameter) -> None:
    """Check what holds when nothing is given; a default that only the kernel can evaluate may hold no password either."""
    name, default = parameter.name, parameter.default
    if parameter.is_required and parameter.annotation != _LATER:
        raise UsageError(f"parameter {name} must be given: -p {name} {parameter.annotation}")
    if isinstance(default, Expression):
        for text in _texts(default.text):
            refuse_password(name, text, by_name=False)
    elif default is None or not parameter.is_checked:
        refuse_password(name, default)
    else:
        _check(parameter, default)


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


def _texts(expression: str) -> Iterator[str]:
    """Yield the texts in the source of an expression."""
    for node in ast.walk(ast.parse(expression or "0", mode="eval")):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def convert(name: str, annotation: str, kind: Any, value: Any) -> Any:
    """Return `value` as a `kind`; text is read as a command line means it, lists as JSON or with commas."""
    from pydantic import ValidationError  # noqa: PLC0415 - slow to import

    adapter = _adapter(name, annotation, kind)
    try:
        is_text = isinstance(value, str)
        converted = _from_text(adapter, annotation, value) if is_text else adapter.validate_python(value)
    except ValidationError as error:
        if any(one["type"] == "timezone_aware" for one in error.errors()):
            raise UsageError(f"parameter {name} = {value!s} has no time zone: add one, +00:00 for UTC") from None
        raise UsageError(f"parameter {name} = {value!r} is not of type {annotation}") from None
    if name in CONFIRMS and converted and not _PLAN_ID.fullmatch(str(converted)):
        raise UsageError(f"parameter {name} = {value!r} is not the id of a plan, such as migrate-2b0323b455")
    return converted


def may_write(parameters: Sequence[Parameter], values: Mapping[str, Any]) -> bool:
    """Tell whether a run with these values may change something: it is neither a dry run nor a rehearsal, or it confirms a plan."""
    effective = {parameter.name: parameter.default for parameter in parameters} | dict(values)
    real = any(effective.get(name) is False or isinstance(effective.get(name), Expression) for name in _REHEARSALS)
    return real or any(effective.get(name) for name in CONFIRMS)


_REHEARSALS = ("dry_run", "rehearse")


def _check(parameter: Parameter, value: Any) -> Any:
    refuse_password(parameter.name, value)
    converted = convert(parameter.name, parameter.annotation, parameter.type, value)
    refuse_password(parameter.name, converted)  # JSON text has become what it means
    adapter = _adapter(parameter.name, parameter.annotation, parameter.type)
    plain = _finite(adapter.dump_python(converted, mode="json"))
    if (endless := _count_endless(converted)) and _count_endless(adapter.validate_python(plain)) != endless:
        raise UsageError(f"parameter {parameter.name} holds NaN or infinity, which only a declared float can be")
    return plain


def _count_endless(value: Any) -> int:
    """Count the numbers in a value that are NaN or infinite."""
    if isinstance(value, float):
        return int(not math.isfinite(value))
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_count_endless, items))


def _finite(value: Any) -> Any:
    """Return a JSON value with NaN and infinity as text, `nan` and `inf`, from which float makes them again."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


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
