"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog, read_waiting
from erpkit.events.buses import CommandBus, QueryBus
from erpkit.events.causes import DeadLetterCount, cause_of, count_dead_letters, group_letters, sum_counts
from erpkit.events.context import Context
from erpkit.events.dead_letters import DeadLetter, DeadLetterDetail, list_dead_letters, show_dead_letter
from erpkit.events.dispatch import CrashError, DispatchResult, dispatch, dispatch_batch
from erpkit.events.lag import GroupLag, LockHolder, TopicRate, read_lag, read_lock_holders, read_rates
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
from erpkit.events.watchdog import Watch, Watchdog
from erpkit.events.worker import Worker, WorkerReport

__all__ = [
    "EVERY",
    "CommandBus",
    "Context",
    "CrashError",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterDetail",
    "DispatchResult",
    "EventBus",
    "GroupLag",
    "HandlerTimeoutError",
    "LetterPlan",
    "LetterResult",
    "LetterRun",
    "LetterSelection",
    "LockHolder",
    "Message",
    "Parked",
    "PayloadError",
    "QueryBus",
    "ReplayPlan",
    "ReplayRun",
    "ReplayStep",
    "Selection",
    "TopicRate",
    "Watch",
    "Watchdog",
    "Worker",
    "WorkerReport",
    "append",
    "careful",
    "cause_of",
    "count_dead_letters",
    "decode",
    "decode_message",
    "dispatch",
    "dispatch_batch",
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
    "read_lag",
    "read_lock_holders",
    "read_rates",
    "read_waiting",
    "run_discard",
    "run_replay",
    "run_retry",
    "show_dead_letter",
    "sum_counts",
]
