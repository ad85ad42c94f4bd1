"""Brokers by one line: forwarding the log to NATS JetStream, Kafka, Redis or RabbitMQ, and consuming from there."""

from erpkit.events.brokers.broker import LIVE, Broker, Delivery, Route, Subscription
from erpkit.events.brokers.consume import Consumed, ConsumeOptions, consume
from erpkit.events.brokers.forward import Forwarded, forward, forward_group
from erpkit.events.brokers.memory import MemoryBroker
from erpkit.events.brokers.opening import open_broker

__all__ = [
    "LIVE",
    "Broker",
    "ConsumeOptions",
    "Consumed",
    "Delivery",
    "Forwarded",
    "MemoryBroker",
    "Route",
    "Subscription",
    "consume",
    "forward",
    "forward_group",
    "open_broker",
]
