"""Read a SQL text as one reading statement, by its tokens and by sqlglot, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erpkit.errors import UsageError, first_line
from erpkit.tenants.sql_tokens import Kind, Token, read_tokens, write

if TYPE_CHECKING:
    from sqlglot import exp

_BEGIN = ("select", "with", "values", "table")
_ONLY_READS = "only a query that reads can be run here: SELECT, WITH, VALUES, TABLE, EXPLAIN or SHOW"
_ONE = "this is more than one statement: run them one by one"
_PLAIN = {"+", "-", "*", "/", "%", "<", ">", "=", "<=", ">=", "<>", "!=", "||", "=>", "->", "->>", "#>", "#>>", "~"}
# PostgreSQL's reserved words: no column can have such a name, except after AS.
_RESERVED = frozenset({
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "both", "case", "cast", "check",
    "collate", "column", "constraint", "create", "current_catalog", "current_date", "current_role", "current_time",
    "current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end", "except",
    "false", "fetch", "for", "foreign", "from", "grant", "group", "having", "in", "initially", "intersect", "into",
    "lateral", "leading", "limit", "localtime", "localtimestamp", "not", "null", "offset", "on", "only", "or", "order",
    "placing", "primary", "references", "returning", "select", "session_user", "some", "symmetric", "system_user", "table",
    "then", "to", "trailing", "true", "union", "unique", "user", "using", "variadic", "when", "where", "window", "with",
})  # fmt: skip
_VALUES = frozenset({
    "current_catalog", "current_date", "current_role", "current_time", "current_timestamp", "current_user", "end", "false",
    "localtime", "localtimestamp", "null", "session_user", "system_user", "true", "user",
})  # fmt: skip
# Words that may precede a value, although a column can have such a name.
_BEFORE_VALUES = frozenset({"between", "by", "escape", "ilike", "like", "passing", "value", "values", "zone"})
_NO_TYPES = _BEFORE_VALUES | {"groups", "interval", "path", "range", "rows", "similar"}
# Syntax of PostgreSQL that sqlglot 30 does not know, and a replacement that it accepts in the same place.
_SHAPES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("using", "<operator>"), "ASC"),
    (("at", "local"), "AT TIME ZONE 'UTC'"),
    (("bit", "varying"), "varbit"),
    (("collation", "for"), "collation_for"),
    (("similar", "to"), "SIMILAR TO"),
    (("similar", "<string>", "escape"), ", 'x' ,"),
    (("similar",), ","),
    (("as", "not", "materialized"), "AS NOT MATERIALIZED"),
    (("array", "[", "]"), "ARRAY [ 1 ]"),
    (("[", "]"), ""),  # of a type
)  # fmt: skip
# SQL/JSON functions, some of whose clauses sqlglot 30 does not know: PASSING, RETURNING, COLUMNS, ON EMPTY.
_JSON = (
    "json_array", "json_arrayagg", "json_exists", "json_object", "json_objectagg", "json_query", "json_serialize",
    "json_table", "json_value",
)  # fmt: skip
_PLAIN_CALL, _COMMA = read_tokens("f(NULL)"), Token(Kind.MARK, ",", ",")

_SHAPES_BY_START = {
    start: [(shape, to) for shape, to in _SHAPES if shape[0] == start] for start in {s[0] for s, _ in _SHAPES}
}


@dataclass(frozen=True)
class Statement:
    """A reading statement as it is sent, and its tokens.

    `is_query` is False for EXPLAIN and SHOW, which cannot stand in a subquery. `defined` are the names of columns that the
    statement defines itself.
    """

    tokens: tuple[Token, ...]
    is_query: bool
    defined: frozenset[str]

    @property
    def text(self) -> str:
        """The SQL to send, written from the tokens that were checked."""
        return write(self.tokens)


def read_statement(text: str) -> Statement:
    """Return the reading statement of `text`.

    Trailing comments and semicolons are dropped. Raises UsageError, with the reason in one line, for anything but one SELECT,
    WITH, VALUES or TABLE that locks and changes nothing, an EXPLAIN without ANALYZE of one, or SHOW.
    """
    tokens = read_tokens(text)
    while tokens and tokens[-1].is_mark(";"):
        tokens.pop()
    query = _after_explain(tokens)
    first = next((token for token in query if not token.is_mark("(")), None)
    is_show = bool(tokens) and tokens[0].is_word("show")
    if not is_show and (first is None or not first.is_word(*_BEGIN)):
        raise UsageError(_ONLY_READS)
    if any(token.is_mark(";") for token in tokens):
        raise UsageError(_ONE)
    if is_show:
        return _show(tokens)
    tree = _parse(query)
    _check_reads(tree)
    return Statement(tuple(tokens), len(query) == len(tokens), _defined(tree) | _json_columns(query))


def _show(tokens: Sequence[Token]) -> Statement:
    if len(tokens) < 2 or not all(token.is_name or token.is_mark(".") for token in tokens):
        raise UsageError("SHOW takes the name of a setting, or ALL")
    return Statement(tuple(tokens), False, frozenset())


def _after_explain(tokens: Sequence[Token]) -> Sequence[Token]:
    """Return the statement after EXPLAIN, or all tokens; EXPLAIN ANALYZE is refused, as it would ignore the limit."""
    if not tokens or not tokens[0].is_word("explain"):
        return tokens
    start = 1
    if len(tokens) > 2 and tokens[1].is_mark("(") and not _is_query(tokens[2]):
        start = next(at for at, token in enumerate(tokens) if token.is_mark(")")) + 1
    while start < len(tokens) and tokens[start].is_word("verbose", "analyze", "analyse"):
        start += 1
    if any(token.is_name and token.value in ("analyze", "analyse") for token in tokens[1:start]):
        raise UsageError("EXPLAIN ANALYZE runs the statement: leave ANALYZE out")
    return tokens[start:]


def _is_query(token: Token) -> bool:
    return token.is_word(*_BEGIN) or token.is_mark("(")


def _parse(tokens: Sequence[Token]) -> exp.Expr:
    import sqlglot  # noqa: PLC0415 - slow to import

    try:
        trees = sqlglot.parse(_for_sqlglot(tokens), dialect="postgres")
    except sqlglot.errors.ParseError as error:
        raise UsageError(f"syntax error: {_reason(error.errors)}") from None
    except sqlglot.errors.SqlglotError as error:
        raise UsageError(f"syntax error: {first_line(error)}") from None
    except RecursionError:
        raise UsageError("the SQL is nested too deeply to be parsed") from None
    if len(trees) != 1 or trees[0] is None:
        raise UsageError(_ONE)
    return trees[0]


def _reason(errors: Sequence[dict[str, Any]]) -> str:
    """Return sqlglot's complaint without line and column, which refer to a text that the user did not write."""
    if not errors:
        return "it cannot be parsed"
    what, near = str(errors[0].get("description", "")).rstrip("."), str(errors[0].get("highlight", ""))
    return f"{what[:1].lower()}{what[1:]}" + (f" near {near}" if near else "")


def _check_reads(tree: exp.Expr) -> None:
    """Raise UsageError unless all parts of the statement are queries; READ ONLY ensures that as well."""
    from sqlglot import exp  # noqa: PLC0415

    if not isinstance(tree, (exp.Query, exp.Values, exp.Table)):
        raise UsageError(_ONLY_READS)
    for node in tree.walk():
        if isinstance(node, (exp.DML, exp.Merge, exp.DDL, exp.Command)):
            raise UsageError(f"{node.key.upper()} changes data or settings: {_ONLY_READS}")
        if isinstance(node, exp.Into):
            raise UsageError(f"SELECT INTO creates a table: {_ONLY_READS}")
        if isinstance(node, exp.Lock):
            raise UsageError("FOR UPDATE and FOR SHARE lock rows: leave them out")


def _defined(tree: exp.Expr) -> frozenset[str]:
    """Return the names of columns that the statement itself defines, folded as PostgreSQL does."""
    from sqlglot import exp  # noqa: PLC0415

    found = {
        *(name.args["alias"] for name in tree.find_all(exp.Alias)),
        *(name for alias in tree.find_all(exp.TableAlias) for name in alias.find_all(exp.Identifier)),
        *(column.this for column in tree.find_all(exp.ColumnDef, exp.JSONColumnDef)),
    }
    return frozenset(name.name if name.args.get("quoted") else name.name.lower() for name in found if name is not None)


def _for_sqlglot(tokens: Sequence[Token]) -> str:
    """Write the tokens for sqlglot, which needs the structure of the statement and no values.

    Strings, numbers and names are simplified, and syntax that sqlglot 30 does not know is replaced by syntax of the same shape.
    """
    words: list[str] = []
    tokens = _without_join_names(_without_json(tokens))
    at = 0
    while at < len(tokens):
        word, count = _shape_at(tokens, at)
        words.append(word)
        at += count
    return " ".join(words)


def _shape_at(tokens: Sequence[Token], at: int) -> tuple[str, int]:
    """Return the text for the next tokens, and how many tokens that covers."""
    token, before = tokens[at], tokens[at - 1] if at else None
    for shape, instead in _SHAPES_BY_START.get(token.value, ()):
        if _fits(tokens[at : at + len(shape)], shape):
            return instead, len(shape)
    if token.is_word("using") and tokens[at + 1 : at + 2] and tokens[at + 1].is_word("operator"):
        return "ASC", _shape_at(tokens, at + 1)[1] + 1
    if token.is_word("operator") and tokens[at + 1 : at + 2] and tokens[at + 1].is_mark("("):
        end = next(n for n in range(at, len(tokens)) if tokens[n].is_mark(")"))
        return _sign(before), end - at + 1
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if after is not None and after.is_string and _is_type(token) and not (before is not None and ends_value(before)):
        return "", 1  # the type of a string, such as box '(1,1),(2,2)'
    return _plain(token, before), 1


def _is_type(token: Token) -> bool:
    return token.kind is Kind.WORD and token.value not in _RESERVED and token.value not in _NO_TYPES


def _sign(before: Token | None) -> str:
    """Return an operator that sqlglot knows: binary after a value, else unary."""
    return "||" if before is not None and ends_value(before) else "-"


def _without_json(tokens: Sequence[Token]) -> Sequence[Token]:
    """Replace each call of SQL/JSON by a plain call with the same subqueries, which are checked, too."""
    kept: list[Token] = []
    at = 0
    while at < len(tokens):
        if not _is_json(tokens, at):
            kept.append(tokens[at])
            at += 1
            continue
        end = _closing(tokens, at + 1)
        kept += _PLAIN_CALL[:-1]
        for query in _queries(tokens[at + 2 : end]):
            kept += [_COMMA, *_without_json(query)]
        kept.append(_PLAIN_CALL[-1])
        at = end + 1
    return kept


def _is_json(tokens: Sequence[Token], at: int) -> bool:
    if not tokens[at].is_word(*_JSON) or at + 1 == len(tokens) or not tokens[at + 1].is_mark("("):
        return False
    return at == 0 or not (tokens[at - 1].is_word("as", "with", "recursive") or tokens[at - 1].is_mark("."))


def _queries(body: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the queries in brackets, or the whole body if that is a query."""
    if body and body[0].is_word(*_BEGIN):
        yield [_PLAIN_CALL[1], *body, _PLAIN_CALL[-1]]
        return
    at = 0
    while at < len(body):
        first = next((token for token in body[at:] if not token.is_mark("(")), None)
        if body[at].is_mark("(") and first is not None and first.is_word(*_BEGIN):
            end = _closing(body, at)
            yield body[at : end + 1]
            at = end
        at += 1


def _closing(tokens: Sequence[Token], start: int) -> int:
    """Return the position of the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(tokens)):
        depth += tokens[at].is_mark("(") - tokens[at].is_mark(")")
        if depth == 0:
            return at
    return len(tokens) - 1  # not reached, as brackets are balanced


def _json_columns(tokens: Sequence[Token]) -> frozenset[str]:
    """Return all names in calls of json_table, which include those of its columns."""
    return frozenset(
        token.value
        for at in range(len(tokens))
        if _is_json(tokens, at) and tokens[at].value == "json_table"
        for token in tokens[at + 2 : _closing(tokens, at + 1)]
        if token.is_name
    )


def _without_join_names(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop the name in `JOIN b USING (x) AS name`."""
    kept: list[Token] = []
    open_: list[bool] = []  # for each bracket, whether USING stands before it
    is_named = False
    for at, token in enumerate(tokens):
        if is_named:
            is_named = token.is_word("as")
            continue
        if token.is_mark("("):
            open_.append(at > 0 and tokens[at - 1].is_word("using"))
        kept.append(token)
        is_named = token.is_mark(")") and open_.pop() and at + 2 < len(tokens) and tokens[at + 1].is_word("as")
    return kept


def _plain(token: Token, before: Token | None) -> str:
    if token.kind is Kind.NUMBER:
        return token.text if token.text.isdigit() else "1.5"
    if token.is_string:
        return "'" + "".join(c for c in token.value[:60] if c.isalnum() or c in " :-.,") + "'"
    if token.kind is Kind.BITS:
        return "'0'"
    if token.kind is Kind.QUOTED:
        return '"' + "".join(c if c.isalnum() else "_" for c in token.value) + '"'
    if token.kind is Kind.OPERATOR and token.value not in _PLAIN:
        return _sign(before)
    if token.kind is Kind.WORD and before is not None and before.is_word("as") and token.value in _RESERVED:
        return f'"{token.value}"'
    return token.text


def ends_value(token: Token) -> bool:
    """Tell whether a value may end with this token, so that an operator after it is binary."""
    if token.kind is Kind.WORD:
        return token.value in _VALUES or token.value not in _RESERVED | _BEFORE_VALUES
    return token.kind not in (Kind.OPERATOR, Kind.MARK) or token.is_mark(")", "]")


def _fits(tokens: Sequence[Token], shape: Sequence[str]) -> bool:
    return len(tokens) == len(shape) and all(
        token.is_word(part) or token.is_mark(part) or f"<{token.kind.value}>" == part
        for token, part in zip(tokens, shape, strict=True)
    )
