"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog
from erpkit.events.buses import CommandBus, QueryBus
from erpkit.events.context import Context
from erpkit.events.dead_letters import DeadLetter, list_dead_letters
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.log import append, list_events, read_events
from erpkit.events.memory import EventBus
from erpkit.events.message import Message, PayloadError, decode, encode
from erpkit.events.replay import ReplayPlan, ReplayRun, ReplayStep, Selection, plan_replay, run_replay
from erpkit.events.router import EVERY, careful, handle
from erpkit.events.timeout import HandlerTimeoutError, overdue
from erpkit.events.upcasters import decode_message

__all__ = [
    "EVERY",
    "CommandBus",
    "Context",
    "DeadLetter",
    "DispatchResult",
    "EventBus",
    "HandlerTimeoutError",
    "Message",
    "PayloadError",
    "QueryBus",
    "ReplayPlan",
    "ReplayRun",
    "ReplayStep",
    "Selection",
    "append",
    "careful",
    "decode",
    "decode_message",
    "dispatch",
    "encode",
    "handle",
    "handler_topics",
    "list_dead_letters",
    "list_events",
    "overdue",
    "plan_replay",
    "read_backlog",
    "read_events",
    "run_replay",
]
