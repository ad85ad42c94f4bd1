"""What the objects of a schema need of each other, from PostgreSQL's own catalogs: pg_depend, and the texts that it does not see.

pg_depend has what the server resolved itself: keys, views, rules, policies, triggers, defaults, types, inheritance, bodies in standard
SQL (PostgreSQL manual, "pg_depend"). It does not know the bodies that are strings, and no name inside a string.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erpkit.couplings.names import Mention, read_names, read_words, words_of
from erpkit.database import Connection
from erpkit.grouping import group_by
from erpkit.modules.wiring import Edge, Kind

# Each object of the schemas with the one that it is a part of: a constraint, a trigger or an index is its table's, and
# a publication's table the publication's. What the server makes by itself (triggers of keys, parts of partitions) is left out.
_PARTS = """
space AS MATERIALIZED (SELECT oid FROM pg_namespace WHERE nspname = ANY (%(schemas)s)),
relation AS MATERIALIZED (SELECT c.oid, c.relkind FROM pg_class c JOIN space s ON s.oid = c.relnamespace WHERE c.relkind <> 't'),
part (classid, objid, rootclass, root, note) AS (
  SELECT 'pg_class'::regclass, r.oid, 'pg_class'::regclass, coalesce(i.indrelid, r.oid), ''
  FROM relation r LEFT JOIN pg_index i ON i.indexrelid = r.oid
  UNION ALL SELECT 'pg_attrdef'::regclass, a.oid, 'pg_class'::regclass, a.adrelid, ''
  FROM relation r JOIN pg_attrdef a ON a.adrelid = r.oid
  UNION ALL SELECT 'pg_constraint'::regclass, o.oid, 'pg_class'::regclass, o.conrelid, o.contype::text
  FROM relation r JOIN pg_constraint o ON o.conrelid = r.oid WHERE o.conparentid = 0
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid, 'pg_class'::regclass, t.tgrelid, ''
  FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal AND t.tgparentid = 0
  UNION ALL SELECT 'pg_policy'::regclass, p.oid, 'pg_class'::regclass, p.polrelid, ''
  FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
  UNION ALL SELECT 'pg_rewrite'::regclass, w.oid, 'pg_class'::regclass, w.ev_class,
  CASE w.rulename WHEN '_RETURN' THEN r.relkind::text ELSE '' END
  FROM relation r JOIN pg_rewrite w ON w.ev_class = r.oid
  UNION ALL SELECT 'pg_publication_rel'::regclass, p.oid, 'pg_publication'::regclass, p.prpubid, ''
  FROM relation r JOIN pg_publication_rel p ON p.prrelid = r.oid
  UNION ALL SELECT 'pg_proc'::regclass, p.oid, 'pg_proc'::regclass, p.oid, '' FROM pg_proc p JOIN space s ON s.oid = p.pronamespace
  WHERE NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')
  UNION ALL SELECT 'pg_type'::regclass, t.oid, 'pg_type'::regclass, t.oid, ''
  FROM pg_type t JOIN space s ON s.oid = t.typnamespace WHERE t.typrelid = 0 AND t.typcategory <> 'A'
  UNION ALL SELECT 'pg_constraint'::regclass, o.oid, 'pg_type'::regclass, o.contypid, ''
  FROM pg_constraint o JOIN pg_type t ON t.oid = o.contypid JOIN space s ON s.oid = t.typnamespace
  UNION ALL SELECT 'pg_cast'::regclass, c.oid, 'pg_type'::regclass, c.castsource, ''
  FROM pg_cast c JOIN pg_type t ON t.oid = c.castsource JOIN space s ON s.oid = t.typnamespace
  UNION ALL SELECT 'pg_statistic_ext'::regclass, e.oid, 'pg_statistic_ext'::regclass, e.oid, ''
  FROM pg_statistic_ext e JOIN space s ON s.oid = e.stxnamespace
  UNION ALL SELECT 'pg_operator'::regclass, o.oid, 'pg_operator'::regclass, o.oid, ''
  FROM pg_operator o JOIN space s ON s.oid = o.oprnamespace
  UNION ALL SELECT 'pg_opclass'::regclass, o.oid, 'pg_opclass'::regclass, o.oid, ''
  FROM pg_opclass o JOIN space s ON s.oid = o.opcnamespace
  UNION ALL SELECT 'pg_amproc'::regclass, a.oid, 'pg_opfamily'::regclass, a.amprocfamily, ''
  FROM pg_amproc a JOIN pg_opfamily o ON o.oid = a.amprocfamily JOIN space s ON s.oid = o.opfnamespace
  UNION ALL SELECT 'pg_ts_config'::regclass, t.oid, 'pg_ts_config'::regclass, t.oid, ''
  FROM pg_ts_config t JOIN space s ON s.oid = t.cfgnamespace
  UNION ALL SELECT 'pg_event_trigger'::regclass, e.oid, 'pg_event_trigger'::regclass, e.oid, '' FROM pg_event_trigger e)"""

_DEPENDS = f"""WITH {_PARTS},
needs AS (
  SELECT DISTINCT p.classid, p.objid, p.rootclass, p.root, p.note, d.objsubid AS part,
    CASE WHEN t.oid IS NULL THEN d.refclassid WHEN t.typrelid > 0 THEN 'pg_class'::regclass ELSE d.refclassid END AS class,
    CASE WHEN t.oid IS NULL THEN d.refobjid WHEN t.typrelid > 0 THEN t.typrelid ELSE t.oid END AS needed
  FROM part p JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid
  LEFT JOIN pg_type own ON d.refclassid = 'pg_type'::regclass AND own.oid = d.refobjid
  LEFT JOIN pg_type t ON t.oid = CASE WHEN own.typcategory = 'A' THEN own.typelem ELSE own.oid END
  WHERE d.deptype IN ('n', 'a') AND d.refobjid >= 16384
  AND d.refclassid NOT IN ('pg_namespace'::regclass, 'pg_extension'::regclass, 'pg_language'::regclass, 'pg_am'::regclass)
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'))
SELECT root.type, root.object_names, object.type, object.object_names, object.object_args, n.note, needed.type, needed.object_names
FROM needs n, pg_identify_object_as_address(n.rootclass, n.root, 0) root,
  pg_identify_object_as_address(n.classid, n.objid, n.part) object,
  pg_identify_object_as_address(n.class, n.needed, 0) needed
WHERE (n.rootclass, n.root) <> (n.class, n.needed) AND needed.type NOT IN ('index', 'toast table')
ORDER BY object.type, object.object_names, needed.object_names"""  # noqa: S608 - made of constants

# Texts in which names stand that pg_depend does not have: bodies, and the strings inside expressions.
_TEXTS = f"""WITH {_PARTS},
texts AS (
  SELECT p.*, l.lanname::text AS language, f.prosrc AS text
  FROM part p JOIN pg_proc f ON p.classid = 'pg_proc'::regclass AND f.oid = p.objid JOIN pg_language l ON l.oid = f.prolang
  WHERE l.lanname NOT IN ('c', 'internal') AND f.prosrc <> ''
  __BODIES__
  UNION ALL SELECT p.*, '', pg_get_expr(f.proargdefaults, 0)
  FROM part p JOIN pg_proc f ON p.classid = 'pg_proc'::regclass AND f.oid = p.objid WHERE f.proargdefaults IS NOT NULL
  UNION ALL SELECT p.*, '', pg_get_expr(a.adbin, a.adrelid)
  FROM part p JOIN pg_attrdef a ON p.classid = 'pg_attrdef'::regclass AND a.oid = p.objid
  UNION ALL SELECT p.*, '', t.typdefault
  FROM part p JOIN pg_type t ON p.classid = 'pg_type'::regclass AND t.oid = p.objid AND t.typdefault IS NOT NULL
  UNION ALL SELECT p.*, '', pg_get_constraintdef(p.objid) FROM part p WHERE p.classid = 'pg_constraint'::regclass
  UNION ALL SELECT p.*, '', pg_get_triggerdef(p.objid) FROM part p WHERE p.classid = 'pg_trigger'::regclass
  UNION ALL SELECT p.*, '', pg_get_ruledef(p.objid) FROM part p WHERE p.classid = 'pg_rewrite'::regclass
  UNION ALL SELECT p.*, '', pg_get_indexdef(p.objid) FROM part p JOIN pg_index i ON p.classid = 'pg_class'::regclass
  AND i.indexrelid = p.objid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
  UNION ALL SELECT p.*, '', concat_ws(' ', pg_get_expr(o.polqual, o.polrelid), pg_get_expr(o.polwithcheck, o.polrelid))
  FROM part p JOIN pg_policy o ON p.classid = 'pg_policy'::regclass AND o.oid = p.objid
  UNION ALL SELECT p.*, 'options', array_to_string(f.ftoptions, ' ')
  FROM part p JOIN pg_foreign_table f ON p.classid = 'pg_class'::regclass AND f.ftrelid = p.objid)
SELECT root.type, root.object_names, object.type, object.object_names, object.object_args, t.note, t.language, t.text
FROM texts t, pg_identify_object_as_address(t.rootclass, t.root, 0) root,
  pg_identify_object_as_address(t.classid, t.objid, 0) object
WHERE t.language <> '' OR t.text LIKE '%%''%%' ORDER BY object.type, object.object_names"""  # noqa: S608 - made of constants

_BODIES = """UNION ALL SELECT p.*, '', pg_get_function_sqlbody(f.oid)
  FROM part p JOIN pg_proc f ON p.classid = 'pg_proc'::regclass AND f.oid = p.objid WHERE f.prosqlbody IS NOT NULL"""

_NAMES = """
SELECT n.nspname::text, o.name::text
FROM pg_namespace n JOIN (
  SELECT relnamespace AS space, relname AS name FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
  UNION SELECT pronamespace, proname FROM pg_proc
  UNION SELECT typnamespace, typname FROM pg_type WHERE typtype IN ('d', 'e', 'r')) o ON o.space = n.oid
WHERE n.nspname = ANY (%(schemas)s)"""

_SCHEMAS = "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY (%s)"

_FURTHEST = 4  # schemas away from the tenant's, through objects that belong to no module
_SYSTEM = re.compile(r"pg_.*|information_schema")
_PART = re.compile(r'"((?:[^"]|"")*)"|[^."]+')

Node = tuple[str, str]  # schema and name; a table and its row type are one
FindOwner = Callable[[str], str | None]


@dataclass(frozen=True)
class Need:
    """One object needs another; `words` say how, as `view margins reads invoices`, of the object `subject`."""

    source: Node
    target: Node
    kind: Kind
    subject: str
    words: str
    certain: bool = True


def catalog_edges(connection: Connection, schema: str, shared: Sequence[str], find_owner: FindOwner) -> list[Edge]:
    """Return an edge for each object of a schema that needs another module's, by itself or through objects of no module.

    `shared` are the schemas that are on the path behind it. Others are read where objects of no module lead to them.
    """
    reader = _Reader(schema, find_owner)
    fresh, done = {schema, *shared}, set[str]()
    for _ in range(_FURTHEST):
        reader.read(connection, sorted(fresh))
        done |= fresh
        fresh = {name for name in reader.leads_to(connection) if not _SYSTEM.fullmatch(name)} - done
        if not fresh:
            break
    return edges_between(reader.needs(), find_owner)


def edges_between(needs: Sequence[Need], find_owner: FindOwner) -> list[Edge]:
    """Return the edges between modules that objects make, also by way of objects that no module owns. Pure."""
    by_source = group_by(needs, lambda need: need.source)
    edges = dict[Edge, None]()
    for source in by_source:
        module = find_owner(source[1])
        for way in _ways(source, by_source, find_owner) if module is not None else ():
            target = find_owner(way[-1].target[1])
            if module is not None and target is not None and target != module:
                words = "; ".join(need.words for need in way)
                edges[Edge(module, target, way[0].kind, words, certain=all(need.certain for need in way))] = None
    return list(edges)


def _ways(start: Node, by_source: Mapping[Node, Sequence[Need]], find_owner: FindOwner) -> Iterator[tuple[Need, ...]]:
    """Yield each need of an object, followed through those of no module, the shortest ways first."""
    waiting, seen = deque[tuple[Need, ...]]((need,) for need in by_source[start]), {start}
    while waiting:
        way = waiting.popleft()
        target = way[-1].target
        if find_owner(target[1]) is not None:
            yield way
        elif target not in seen:
            seen.add(target)
            waiting += [(*way, need) for need in by_source.get(target, ())]


class _Reader:
    """Reads the needs of objects, schema after schema; `home` is the one whose names need not be qualified."""

    def __init__(self, home: str, find_owner: FindOwner) -> None:
        self._home, self._find_owner = home, find_owner
        self._needs: list[Need] = []
        self._texts: list[_Text] = []
        self._known: dict[str, Node] = {}  # what there is, by its name alone

    def read(self, connection: Connection, schemas: Sequence[str]) -> None:
        """Read the objects of some schemas."""
        values = {"schemas": schemas}
        self._needs += [self._need(row) for row in connection.execute(_DEPENDS, values)]
        texts = _TEXTS.replace("__BODIES__", _BODIES if connection.info.server_version >= 140000 else "")
        self._texts += [self._text(row) for row in connection.execute(texts, values)]
        for schema, name in connection.execute(_NAMES, values):
            if schema == self._home or name not in self._known:
                self._known[name] = (schema, name)

    def leads_to(self, connection: Connection) -> set[str]:
        """Return the schemas that objects of no module are in, or that the body of a function names."""
        found = {need.target[0] for need in self._needs if self._find_owner(need.target[1]) is None} - {""}
        words = {word for text in self._texts if text.language for word in words_of(text.text)}
        return found | {name for (name,) in connection.execute(_SCHEMAS, [sorted(words)])}

    def needs(self) -> list[Need]:
        """Return what was read, once all names are known; what is only named is left out where it is certain, too."""
        certain = {(need.subject, need.target) for need in self._needs}
        found = dict[tuple[str, Node, bool], Need]()
        for need in (need for text in self._texts for need in self._named(text)):
            found.setdefault((need.subject, need.target, need.certain), need)
        certain |= {(subject, target) for subject, target, is_certain in found if is_certain}
        named = [need for need in found.values() if need.certain or (need.subject, need.target) not in certain]
        return [*self._needs, *named]

    def _need(self, row: Sequence[Any]) -> Need:
        root_type, root, object_type, names, arguments, note, needed_type, needed = row
        source, target = _node(root_type, root), _node(needed_type, needed)
        kind, subject = _subject(object_type, names, arguments, note, self._shown(source))
        shown = self._shown(target)
        if kind == "foreign key":
            words = f"{subject}, {self._shown(source)} -> {shown}"
        elif object_type in _RELATIONS and len(names) == 2 and needed_type in _RELATIONS:
            kind, words = "inherits", f"{subject} inherits from {shown}"
        elif object_type == "table" and needed_type == "composite type":
            kind, words = "type", f"{subject} has type {shown}"
        else:
            words = f"{subject} {_verb(kind, needed_type)} {shown}"
        return Need(source, target, kind, subject, words)

    def _text(self, row: Sequence[Any]) -> _Text:
        root_type, root, object_type, names, arguments, note, language, text = row
        source = _node(root_type, root)
        return _Text(source, *_subject(object_type, names, arguments, note, self._shown(source)), language, text)

    def _named(self, text: _Text) -> Iterator[Need]:
        """Yield what a text names: for certain where a body in SQL or PL/pgSQL has a table or calls a function."""
        is_body = text.language in ("sql", "plpgsql")
        for mention in read_names(text.text) if is_body or not text.language else read_words(text.text):
            target = self._known.get(mention.name)
            certain = is_body and mention.place in ("table", "call")
            is_owned = self._find_owner(mention.name) is not None
            if target is None and certain and is_owned and mention.place == "table":
                target = (self._home, mention.name)
            if target is None or target == text.source or not (certain or (is_owned and _is_news(text, mention))):
                continue
            at = f", line {mention.line}," if text.language and "\n" in text.text else ""
            words = f"{text.subject}{at} {'uses' if certain else 'names'} {self._shown(target)}"
            yield Need(text.source, target, text.kind, text.subject, words, certain)

    def _shown(self, node: Node) -> str:
        return node[1] if node[0] in ("", self._home) else ".".join(node)


@dataclass(frozen=True)
class _Text:
    """A body of a function in its language, or an expression of which the strings alone are looked at."""

    source: Node
    kind: Kind
    subject: str
    language: str
    text: str


def _is_news(text: _Text, mention: Mention) -> bool:
    """Tell whether pg_depend would not have it: outside of strings, it has all that an expression names."""
    return bool(text.language) or mention.place == "string"


_RELATIONS = ("table", "foreign table", "view", "materialized view")
_FUNCTIONS = ("function", "procedure", "aggregate")
_KINDS: Mapping[str, Kind] = {
    "trigger": "trigger", "policy": "policy", "rule": "rule", "index": "index", "sequence": "sequence", "default value": "default",
    "function": "function", "procedure": "function", "aggregate": "function", "type": "type", "composite type": "type",
    "composite type column": "type", "table column": "type", "foreign table column": "type", "domain constraint": "type",
    "table constraint": "check",
}  # fmt: skip


def _subject(
    object_type: str, names: Sequence[str], arguments: Sequence[str], note: str, root: str
) -> tuple[Kind, str]:
    """Return the kind of a need of an object, and what the object is called in words; `root` is what it is a part of."""
    if object_type == "rule" and note:
        return "view", f"{'materialized view' if note == 'm' else 'view'} {root}"
    if object_type == "table constraint" and note == "f":
        return "foreign key", names[-1]
    kind = _KINDS.get(object_type, "database")
    if object_type in ("default value", "table column", "composite type column", "foreign table column"):
        return kind, f"{object_type.split()[-1].replace('value', 'default')} {root}.{names[-1]}"
    if object_type in ("publication relation", "domain constraint"):
        return kind, f"{object_type.split()[0]} {root}"
    if object_type.endswith("of access method"):
        return kind, f"operator family {root}"
    if object_type == "cast":
        return kind, f"cast of {root} to {arguments[0]}"
    if object_type in ("table constraint", "trigger", "policy", "rule", "index"):
        return kind, f"{object_type.removeprefix('table ')} {names[-1]} of {root}"
    return kind, f"{object_type} {root}"


def _verb(kind: Kind, needed_type: str) -> str:
    if needed_type in _FUNCTIONS:
        return "calls"
    if kind == "sequence":
        return "is owned by"
    if needed_type in _RELATIONS and kind in ("view", "policy"):
        return "reads"
    return "has type" if kind == "type" and needed_type in ("type", "composite type", *_RELATIONS) else "uses"


def _node(object_type: str, names: Sequence[str]) -> Node:
    """Return schema and name of what pg_identify_object_as_address names: a type comes as one text, `shop."Mood"`."""
    if object_type in ("operator class", "operator family"):
        return names[1], names[2]  # behind the access method
    if len(names) > 1:
        return names[0], names[1]
    parts = [match[1].replace('""', '"') if match[1] is not None else match[0] for match in _PART.finditer(names[0])]
    return ("", parts[0]) if len(parts) == 1 else (parts[-2], parts[-1])
