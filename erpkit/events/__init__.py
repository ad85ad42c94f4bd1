"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog, read_waiting
from erpkit.events.buses import CommandBus, Context
from erpkit.events.dead_letters import DeadLetter, list_dead_letters
from erpkit.events.dispatch import CrashError, DispatchResult, dispatch, dispatch_batch
from erpkit.events.lag import GroupLag, LockHolder, TopicRate, read_lag, read_lock_holders, read_rates
from erpkit.events.log import append, list_events, read_events
from erpkit.events.message import Message, PayloadError, decode, encode
from erpkit.events.replay import ReplayPlan, ReplayRun, ReplayStep, Selection, plan_replay, run_replay
from erpkit.events.watchdog import Watch, Watchdog
from erpkit.events.worker import Worker, WorkerReport

__all__ = [
    "CommandBus",
    "Context",
    "CrashError",
    "DeadLetter",
    "DispatchResult",
    "GroupLag",
    "LockHolder",
    "Message",
    "PayloadError",
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
    "decode",
    "dispatch",
    "dispatch_batch",
    "encode",
    "handler_topics",
    "list_dead_letters",
    "list_events",
    "plan_replay",
    "read_backlog",
    "read_events",
    "read_lag",
    "read_lock_holders",
    "read_rates",
    "read_waiting",
    "run_replay",
]
