"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog
from erpkit.events.brokers import Consumed, Forwarded, consume, forward, open_broker
from erpkit.events.buses import CommandBus, Context
from erpkit.events.dead_letters import DeadLetter, list_dead_letters
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.log import append, list_events, read_events
from erpkit.events.message import Message, PayloadError, decode, encode
from erpkit.events.replay import ReplayPlan, ReplayRun, ReplayStep, Selection, plan_replay, run_replay

__all__ = [
    "CommandBus",
    "Consumed",
    "Context",
    "DeadLetter",
    "DispatchResult",
    "Forwarded",
    "Message",
    "PayloadError",
    "ReplayPlan",
    "ReplayRun",
    "ReplayStep",
    "Selection",
    "append",
    "consume",
    "decode",
    "dispatch",
    "encode",
    "forward",
    "handler_topics",
    "list_dead_letters",
    "list_events",
    "open_broker",
    "plan_replay",
    "read_backlog",
    "read_events",
    "run_replay",
]
