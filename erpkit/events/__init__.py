"""Commands, events, each tenant's log of them, dispatch to handlers, dead letters and replay."""

from erpkit.events.backlog import handler_topics, read_backlog
from erpkit.events.buses import CommandBus, Context
from erpkit.events.dead_letters import DeadLetter, list_dead_letters
from erpkit.events.dispatch import DispatchResult, dispatch
from erpkit.events.event_files import EventFile, ImportPlan, export_events, import_events, plan_import
from erpkit.events.log import append, list_events, read_events
from erpkit.events.message import Message, PayloadError, decode, encode
from erpkit.events.replay import ReplayRun, run_replay
from erpkit.events.replay_audit import (
    ReplayRecord,
    ReplayResult,
    count_replay_results,
    list_replay_results,
    list_replays,
    plan_resume,
)
from erpkit.events.replay_plan import ReplayPlan, ReplayStep, plan_replay
from erpkit.events.resend import send_events
from erpkit.events.selection import Selection
from erpkit.events.shadow import (
    Projection,
    Shadow,
    ShadowRecord,
    build_shadow,
    drop_shadow,
    find_projection,
    find_shadow,
    list_shadows,
)
from erpkit.events.shadow_swap import ShadowDiff, diff_shadow, rebuild_projection, swap_shadow
from erpkit.events.watermill import (
    WatermillPlan,
    WatermillTopic,
    inspect_watermill,
    plan_watermill,
    read_watermill,
    replay_watermill,
)

__all__ = [
    "CommandBus",
    "Context",
    "DeadLetter",
    "DispatchResult",
    "EventFile",
    "ImportPlan",
    "Message",
    "PayloadError",
    "Projection",
    "ReplayPlan",
    "ReplayRecord",
    "ReplayResult",
    "ReplayRun",
    "ReplayStep",
    "Selection",
    "Shadow",
    "ShadowDiff",
    "ShadowRecord",
    "WatermillPlan",
    "WatermillTopic",
    "append",
    "build_shadow",
    "count_replay_results",
    "decode",
    "diff_shadow",
    "dispatch",
    "drop_shadow",
    "encode",
    "export_events",
    "find_projection",
    "find_shadow",
    "handler_topics",
    "import_events",
    "inspect_watermill",
    "list_dead_letters",
    "list_events",
    "list_replay_results",
    "list_replays",
    "list_shadows",
    "plan_import",
    "plan_replay",
    "plan_resume",
    "plan_watermill",
    "read_backlog",
    "read_events",
    "read_watermill",
    "rebuild_projection",
    "replay_watermill",
    "run_replay",
    "send_events",
    "swap_shadow",
]
