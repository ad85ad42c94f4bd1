"""Brokers by one line: forwarding the log to NATS JetStream, Kafka, Redis or RabbitMQ, and consuming from there."""

from erpkit.events.brokers.broker import LIVE, Broker, Delivery, MemoryBroker, Route, Subscription, open_broker
from erpkit.events.brokers.consume import Consumed, ConsumeOptions, consume
from erpkit.events.brokers.forward import Forwarded, forward, forward_group

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
