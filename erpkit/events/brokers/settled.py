"""The checkpoint of a handler that is fed by a broker: moved over what its inbox and its dead letters say is done.

Deliveries need not come in the order of the log, and one that failed comes again after later ones; so the checkpoint stays
before the first event that is not settled. `events lag` then tells the truth, and a dispatcher that takes over begins there.
"""

from __future__ import annotations

from erpkit.database import Database, Tenant

__all__ = ["settle"]

_STEP = 1000  # events looked at in one statement

# Each consumer settles after its commit: of two at once, the later one sees what both have done.
_SETTLE = """
WITH following AS MATERIALIZED (
    SELECT "offset", uuid FROM erpkit_events WHERE topic = %(topic)s
       AND "offset" > coalesce((SELECT "offset" FROM erpkit_checkpoints WHERE consumer_group = %(handler)s), 0)
     ORDER BY "offset" LIMIT %(step)s
), settled AS (
    SELECT "offset" FROM following WHERE "offset" < coalesce((
        SELECT "offset" FROM following f
         WHERE NOT EXISTS (SELECT FROM erpkit_inbox i WHERE i.handler = %(handler)s AND i.uuid = f.uuid)
           AND NOT EXISTS (SELECT FROM erpkit_dead_letters d WHERE d.handler = %(handler)s AND d.uuid = f.uuid)
           AND NOT EXISTS (SELECT FROM erpkit_parked p WHERE p.handler = %(handler)s AND p.uuid = f.uuid)
         ORDER BY "offset" LIMIT 1), 9223372036854775807)
), moved AS (
    INSERT INTO erpkit_checkpoints (consumer_group, "offset")
    SELECT %(handler)s, max("offset") FROM settled HAVING count(*) > 0
        ON CONFLICT (consumer_group) DO UPDATE
       SET "offset" = greatest(erpkit_checkpoints."offset", EXCLUDED."offset"), updated_at = now()
)
SELECT count(*) FROM settled
"""


def settle(database: Database, tenant: Tenant, handler: str, topic: str) -> None:
    """Move a handler's checkpoint up to the first event of its topic that it has not handled, buried or parked."""
    moved = _STEP
    while moved == _STEP:
        with database.tenant_transaction(tenant, write=True) as connection:
            rows = connection.execute(_SETTLE, {"handler": handler, "topic": topic, "step": _STEP}).fetchall()
        ((moved,),) = rows
