"""Pauses: a handler that fails waits before its next attempt, and an outage makes no dead letters.

An outage and a run of bad events look alike until an event beyond the run is tried. So after a pause only the first event is
tried; but each third time all are, in order, up to twice as many as the last time (see `reach`). When one of them succeeds, there is
no outage: those before it become dead letters. When none does, all of them wait for the next time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from erpkit.database import Connection
from erpkit.events.checkpoints import Checkpoint, read_batch, read_following
from erpkit.events.consumer import Consumer, Context
from erpkit.events.dead_letters import cause_of, describe_error
from erpkit.events.message import Message, PayloadError
from erpkit.modules import Retry

_LONGEST = 60.0  # seconds
_WIDE = 3  # each third attempt after a pause tries more than the first event, as only some of them may be bad
_FARTHEST = 5000  # events
WIDE_FOR = 30.0  # seconds after which such an attempt begins no other event

# Events that are parked were not tried.
_LAST = """
SELECT e.uuid, e."offset", d.error
  FROM (SELECT uuid, "offset" FROM erpkit_events e WHERE topic = ANY(%(topics)s) AND "offset" <= %(offset)s
           AND NOT EXISTS (SELECT FROM erpkit_parked p WHERE p.handler = %(handler)s AND p.uuid = e.uuid)
         ORDER BY "offset" DESC LIMIT %(limit)s) e
  LEFT JOIN erpkit_dead_letters d ON d.handler = %(handler)s AND d.uuid = e.uuid AND d.status = 'open'
 ORDER BY e."offset" DESC
"""


@dataclass(frozen=True)
class Pause:
    """A group's wait of `seconds` for the event after `offset`, of which `error` was the last error.

    `tries` counts the attempts at that event where its pauses pass outside the transaction, `pauses` those of an outage.
    """

    offset: int
    seconds: float
    error: str
    tries: int = 0
    pauses: int = 0


def is_worth_retrying(retry: Retry, error: BaseException) -> bool:
    """Tell whether another attempt may go better: a payload that does not fit never will."""
    return isinstance(error, retry.on) and not isinstance(error, PayloadError)


def wait_for_retry(consumer: Consumer, message: Message, error: Exception, tries: int) -> Pause | None:
    """Return the pause before the next attempt at an event that was tried `tries` times, if it passes outside the transaction."""
    retry = consumer.handler.retry
    if not (retry.waits_outside and tries < retry.attempts and is_worth_retrying(retry, error)):
        return None
    seconds = retry.limit(tries) * random.uniform(0.5, 1)
    return Pause((message.offset or 0) - 1, seconds, describe_error(error), tries=tries)


def find_outage(
    connection: Connection, consumer: Consumer, context: Context, checkpoint: Checkpoint, wanted: int | None = None
) -> Pause | None:
    """Return the pause of an outage, where the dead letter of this message is the last of many in a row with one cause.

    `wanted` is how many; None leaves it to the handler's `retry`. Their letters are taken back then, and so is what was parked
    behind them: all of them come again.
    """
    retry, message, error = consumer.handler.retry, context.message, context.error
    is_new = message.offset is not None and message.offset > checkpoint.offset
    if retry.pause_after is None or error is None or not is_new or not is_worth_retrying(retry, error):
        return None
    wanted = wanted or _wanted(retry.pause_after, checkpoint, describe_error(error))
    values = {"topics": list(consumer.group.topics), "offset": message.offset, "handler": consumer.name}
    rows = connection.execute(_LAST, {**values, "limit": wanted}).fetchall()
    causes = {found and cause_of(found) for _, _, found in rows}
    if len(rows) < wanted or causes != {cause_of(describe_error(error))}:
        return None
    first = rows[-1][1]
    _take_back(connection, consumer, [uuid for uuid, _, _ in rows], first)
    seconds = min(_LONGEST, 2.0 ** min(checkpoint.pauses, 10)) * random.uniform(0.5, 1)
    return Pause(first - 1, seconds, describe_error(error), pauses=checkpoint.pauses + 1)


def _wanted(pause_after: int, checkpoint: Checkpoint, error: str) -> int:
    """Return how many events in a row are an outage: the first one is enough where it goes on after a pause."""
    if not checkpoint.pauses or cause_of(checkpoint.error) != cause_of(error):
        return pause_after
    return reach(pause_after, checkpoint) if is_wide(checkpoint) else 1


def is_wide(checkpoint: Checkpoint) -> bool:
    """Tell whether to try more than the first event after a pause, until one succeeds: only some of them may be bad."""
    return checkpoint.pauses > 0 and checkpoint.pauses % _WIDE == 0


def reach(pause_after: int, checkpoint: Checkpoint) -> int:
    """Return how many events to try then: twice as many each time, so that a run of bad ones of any length is passed some time."""
    return min(_FARTHEST, 2 * pause_after << min(checkpoint.pauses // _WIDE, 20))


def read_past_outage(connection: Connection, consumer: Consumer, limit: int) -> tuple[Checkpoint, list[Message] | None]:
    """Read a batch as `read_following` does, and as many events as are to be tried where that is more."""
    checkpoint, messages = read_following(connection, consumer, limit)
    pause_after = consumer.handler.retry.pause_after
    if not messages or pause_after is None or not is_wide(checkpoint):
        return checkpoint, messages
    most = reach(pause_after, checkpoint)
    return read_batch(connection, consumer.group, most) if most > limit else (checkpoint, messages)


def _take_back(connection: Connection, consumer: Consumer, uuids: list[object], first: int) -> None:
    connection.execute(
        "DELETE FROM erpkit_dead_letters WHERE handler = %s AND uuid = ANY(%s::uuid[])", [consumer.name, uuids]
    )
    connection.execute('DELETE FROM erpkit_parked WHERE handler = %s AND "offset" >= %s', [consumer.name, first])
