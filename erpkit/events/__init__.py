"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog
from erpkit.events.buses import CommandBus, QueryBus
from erpkit.events.causes import DeadLetterCount, cause_of, count_dead_letters, group_letters, sum_counts
from erpkit.events.context import Context
from erpkit.events.dead_letters import DeadLetter, DeadLetterDetail, list_dead_letters, show_dead_letter
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.letter_plan import LetterPlan, LetterSelection, plan_discard, plan_retry
from erpkit.events.letter_run import LetterResult, LetterRun, run_discard, run_retry
from erpkit.events.log import append, list_events, read_events
from erpkit.events.memory import EventBus
from erpkit.events.message import Message, PayloadError, decode, encode
from erpkit.events.parking import Parked, hold_back, list_parked
from erpkit.events.replay import ReplayPlan, ReplayRun, ReplayStep, Selection, plan_replay, run_replay
from erpkit.events.router import EVERY, careful, handle
from erpkit.events.timeout import HandlerTimeoutError, overdue
from erpkit.events.upcasters import decode_message

__all__ = [
    "EVERY",
    "CommandBus",
    "Context",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterDetail",
    "DispatchResult",
    "EventBus",
    "HandlerTimeoutError",
    "LetterPlan",
    "LetterResult",
    "LetterRun",
    "LetterSelection",
    "Message",
    "Parked",
    "PayloadError",
    "QueryBus",
    "ReplayPlan",
    "ReplayRun",
    "ReplayStep",
    "Selection",
    "append",
    "careful",
    "cause_of",
    "count_dead_letters",
    "decode",
    "decode_message",
    "dispatch",
    "encode",
    "group_letters",
    "handle",
    "handler_topics",
    "hold_back",
    "list_dead_letters",
    "list_events",
    "list_parked",
    "overdue",
    "plan_discard",
    "plan_replay",
    "plan_retry",
    "read_backlog",
    "read_events",
    "run_discard",
    "run_replay",
    "run_retry",
    "show_dead_letter",
    "sum_counts",
]
