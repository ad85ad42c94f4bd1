"""Brokers by one line: forwarding the log to NATS JetStream, Kafka, Redis or RabbitMQ, and consuming from there."""

from erpkit.events.brokers.broker import (
    LIVE,
    Broker,
    MemoryBroker,
    RefusedError,
    Route,
    Subscription,
    open_broker,
    scheme_of,
)
from erpkit.events.brokers.consume import Consumed, ConsumeOptions, consume
from erpkit.events.brokers.forward import (
    Forwarded,
    forward,
    group_name,
    prepare,
    read_forward_findings,
    read_forward_lag,
)
from erpkit.events.brokers.resend import ResendPlan, plan_resend, run_resend

__all__ = [
    "LIVE",
    "Broker",
    "ConsumeOptions",
    "Consumed",
    "Forwarded",
    "MemoryBroker",
    "RefusedError",
    "ResendPlan",
    "Route",
    "Subscription",
    "consume",
    "forward",
    "group_name",
    "open_broker",
    "plan_resend",
    "prepare",
    "read_forward_findings",
    "read_forward_lag",
    "run_resend",
    "scheme_of",
]
