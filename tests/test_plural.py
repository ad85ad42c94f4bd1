"""A number and its noun."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import erpkit
from erpkit.finding import Cause, Finding
from erpkit.plural import count_of

_Node = TypeVar("_Node", bound=ast.AST)
PACKAGE = Path(erpkit.__file__).parent
_NOUNS = re.compile(r" (?:[a-z]+ )?[a-z]{3,}s\b")
_VERBS = re.compile(r" (?:[a-z]+ )?(?:does|has|this|was)\b")


def test_one_thing_has_a_singular_and_each_other_number_a_plural() -> None:
    assert [count_of(n, "finding") for n in (0, 1, 2, 1234)] == [
        "0 findings",
        "1 finding",
        "2 findings",
        "1,234 findings",
    ]
    assert [count_of(n, "query waits", "queries wait") for n in (1, 2)] == ["1 query waits", "2 queries wait"]
    assert str(Cause((Finding("drift", "a", "x"), Finding("drift", "b", "x")))) == "2 tenants: x (a, b)"


def test_no_text_of_the_package_leaves_singular_or_plural_to_the_reader() -> None:
    texts = [
        f"{path}:{node.lineno}: {node.value}" for path, node in _nodes(ast.Constant) if isinstance(node.value, str)
    ]
    assert [text for text in texts if re.search(r"\b[a-z]+\((?:s|es)\)", text)] == []


def test_no_text_of_the_package_puts_a_plural_after_a_number_that_may_be_one() -> None:
    assert [
        f"{path}:{number.lineno}: {ast.unparse(number.value)}{after.value!s}"
        for path, text in _nodes(ast.JoinedStr)
        for number, after in zip(text.values, text.values[1:], strict=False)
        if isinstance(number, ast.FormattedValue) and isinstance(after, ast.Constant)
        if _is_count(number) and _NOUNS.match(str(after.value)) and not _VERBS.match(str(after.value))
    ] == []


def test_no_text_of_the_package_has_a_number_without_thousands() -> None:
    found = [
        f"{path}:{number.lineno}: {ast.unparse(text)}"
        for path, text in _nodes(ast.JoinedStr)
        for before, number, after in zip(["", *text.values], text.values, [*text.values[1:], ""], strict=False)
        if isinstance(number, ast.FormattedValue) and number.format_spec is None and _is_figure(number.value)
        if re.match(r"[ ;]|, ", _said(after)) or _said(before).endswith(" ")
    ]
    assert found == []


def _is_figure(value: ast.expr) -> bool:
    """Tell whether this is a number of things by its name; a number of a cell or a line is none."""
    if isinstance(value, ast.BinOp):
        return _is_figure(value.left) or _is_figure(value.right)
    name = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return name.rpartition(".")[2] in ("len", "sum", "count") or (
        isinstance(value, ast.Attribute)
        and value.attr.endswith(("size", "count", "handled", "failed", "resolved", "known", "unknown", "dead"))
    )


def _said(part: object) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else ""


def _nodes(kind: type[_Node]) -> Iterator[tuple[str, _Node]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield str(path.relative_to(PACKAGE)), node


def _is_count(number: ast.FormattedValue) -> bool:
    """Tell whether this is a length, a sum, a size or a number that is grouped by thousands, and no constant."""
    value, spec = number.value, ast.unparse(number.format_spec) if number.format_spec else ""
    is_constant = isinstance(value, ast.Name) and value.id.isupper()
    called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    is_size = isinstance(value, ast.Attribute) and value.attr.endswith(("size", "count", "handled", "listed"))
    return not is_constant and (is_size or called in ("len", "sum") or "," in spec)
