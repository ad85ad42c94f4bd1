"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.brokers import Consumed, Forwarded, Route, consume, forward, open_broker
from erpkit.events.buses import CommandBus, EventBus, QueryBus, carry_out, find_answer
from erpkit.events.checkpoints import read_backlog
from erpkit.events.consumer import Consumer, ConsumerGroup, Context, consumer_groups
from erpkit.events.dead_letters import (
    LETTER_COLUMNS,
    DeadLetter,
    DeadLetterCount,
    DeadLetterDetail,
    cause_of,
    count_dead_letters,
    group_letters,
    list_dead_letters,
    show_dead_letter,
    sum_counts,
)
from erpkit.events.dispatch import dispatch
from erpkit.events.lag import GroupLag, read_lag, read_lock_holders, read_rates
from erpkit.events.letter_plan import LetterPlan, LetterSelection, plan_discard, plan_retry
from erpkit.events.letter_run import LetterResult, LetterRun, run_letters
from erpkit.events.log import append, list_events, read_events
from erpkit.events.message import Message, PayloadError, decode, decode_message, encode
from erpkit.events.parking import hold_back, list_parked
from erpkit.events.replay.audit import (
    ReplayRecord,
    count_replay_results,
    list_replay_results,
    list_replays,
    plan_resume,
)
from erpkit.events.replay.files import EventFile, ImportPlan, export_events, import_events, plan_import
from erpkit.events.replay.plan import HandlerChoice, ReplayPlan, plan_replay
from erpkit.events.replay.request import ReplayRequest, plan_request, plan_send, run_request, send_replay
from erpkit.events.replay.run import ReplayRun, RunOptions, run_replay
from erpkit.events.replay.selection import Selection
from erpkit.events.replay.shadow import (
    Shadow,
    ShadowRecord,
    build_shadow,
    drop_shadow,
    find_projection,
    find_shadow,
    list_shadows,
)
from erpkit.events.replay.swap import ShadowDiff, diff_shadow, rebuild_projection, swap_shadow
from erpkit.events.replay.watermill import inspect_watermill, plan_watermill, read_watermill, replay_watermill
from erpkit.events.router import EVERY, handle, isolated
from erpkit.events.timeout import HandlerTimeoutError, Watchdog, overdue
from erpkit.events.worker import Worker, WorkerOptions, WorkerReport

__all__ = [
    "EVERY",
    "LETTER_COLUMNS",
    "CommandBus",
    "Consumed",
    "Consumer",
    "ConsumerGroup",
    "Context",
    "DeadLetter",
    "DeadLetterCount",
    "DeadLetterDetail",
    "EventBus",
    "EventFile",
    "Forwarded",
    "GroupLag",
    "HandlerChoice",
    "HandlerTimeoutError",
    "ImportPlan",
    "LetterPlan",
    "LetterResult",
    "LetterRun",
    "LetterSelection",
    "Message",
    "PayloadError",
    "QueryBus",
    "ReplayPlan",
    "ReplayRecord",
    "ReplayRequest",
    "ReplayRun",
    "Route",
    "RunOptions",
    "Selection",
    "Shadow",
    "ShadowDiff",
    "ShadowRecord",
    "Watchdog",
    "Worker",
    "WorkerOptions",
    "WorkerReport",
    "append",
    "build_shadow",
    "carry_out",
    "cause_of",
    "consume",
    "consumer_groups",
    "count_dead_letters",
    "count_replay_results",
    "decode",
    "decode_message",
    "diff_shadow",
    "dispatch",
    "drop_shadow",
    "encode",
    "export_events",
    "find_answer",
    "find_projection",
    "find_shadow",
    "forward",
    "group_letters",
    "handle",
    "hold_back",
    "import_events",
    "inspect_watermill",
    "isolated",
    "list_dead_letters",
    "list_events",
    "list_parked",
    "list_replay_results",
    "list_replays",
    "list_shadows",
    "open_broker",
    "overdue",
    "plan_discard",
    "plan_import",
    "plan_replay",
    "plan_request",
    "plan_resume",
    "plan_retry",
    "plan_send",
    "plan_watermill",
    "read_backlog",
    "read_events",
    "read_lag",
    "read_lock_holders",
    "read_rates",
    "read_watermill",
    "rebuild_projection",
    "replay_watermill",
    "run_letters",
    "run_replay",
    "run_request",
    "send_replay",
    "show_dead_letter",
    "sum_counts",
    "swap_shadow",
]
