"""Orphans: topics in the log that no handler handles, and checkpoints of handlers that no module has any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erpkit.database import Connection, Errors, Tenant, read_tables
from erpkit.events.consumer import ConsumerGroup
from erpkit.events.starts import TAKEN_OVER
from erpkit.finding import Finding

FORWARDERS = "forward."  # the names of consumer groups that stand for a broker begin with it

# The index on topics is read once a topic.
_QUERY = """
WITH RECURSIVE t AS ((SELECT topic FROM {schema}.erpkit_events ORDER BY topic LIMIT 1) UNION ALL
    SELECT (SELECT topic FROM {schema}.erpkit_events e WHERE e.topic > t.topic ORDER BY topic LIMIT 1)
      FROM t WHERE t.topic IS NOT NULL)
SELECT {slug}, 'topic', topic, (SELECT max("offset") FROM {schema}.erpkit_events e WHERE e.topic = t.topic) FROM t
 WHERE topic <> ALL({topics}::text[])
UNION ALL SELECT {slug}, 'handler', consumer_group, "offset" FROM {schema}.erpkit_checkpoints
 WHERE consumer_group <> ALL({groups}::text[]) AND NOT starts_with(consumer_group, {forwarders}) AND "offset" < {taken_over}
"""


@dataclass(frozen=True)
class Orphan:
    """A topic that no handler handles, with the offset of its newest event; or a handler that is gone, with its checkpoint."""

    tenant: str
    kind: Literal["topic", "handler"]
    name: str
    offset: int


def list_orphans(
    connection: Connection, tenants: Sequence[Tenant], groups: Sequence[ConsumerGroup], errors: Errors | None = None
) -> list[Orphan]:
    """Return the orphans in the logs of `tenants`, where `groups` are all handlers; `errors` is as in `read_tenants`."""
    topics = sorted({topic for group in groups for topic in group.topics})
    rows = read_tables(
        connection, tenants, "erpkit_events", _QUERY, errors,
        topics=topics, groups=[group.name for group in groups], forwarders=FORWARDERS, taken_over=TAKEN_OVER,
    )  # fmt: skip
    return [Orphan(*row) for row in sorted(rows)]


def orphan_findings(orphans: Sequence[Orphan]) -> list[Finding]:
    """Return one finding for each topic and handler, whatever the number of tenants."""
    return [
        Finding("no handler", one.tenant, f"no handler handles {one.name or 'events without a topic'} (any more)", "info")
        if one.kind == "topic"
        else Finding("removed handler", one.tenant, f"no module has the handler {one.name} any more: its checkpoint stands", "info",
                     f"erpkit events seek {one.name} --to removed")
        for one in orphans
    ]  # fmt: skip
