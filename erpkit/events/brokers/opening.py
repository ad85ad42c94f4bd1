"""Opening the broker that the settings name, each with the libraries for it alone."""

from __future__ import annotations

from erpkit.config import Settings, mask_url
from erpkit.errors import UsageError
from erpkit.events.brokers.broker import Broker


def open_broker(settings: Settings, *, lasting: bool = False) -> Broker:
    """Return the broker that ERPKIT_BROKER names; it connects when it is first used.

    Raises UsageError, saying what to install, where the libraries for it are missing; and for `memory:` where it is to outlast
    this process.
    """
    from erpkit.events.brokers.memory import MemoryBroker  # noqa: PLC0415 - each only where it is used

    scheme = settings.broker.partition(":")[0]
    if scheme == "memory" and lasting:
        raise UsageError("ERPKIT_BROKER is memory:, which ends with this process: set it to nats://host:4222, say")
    if scheme == "memory":
        return MemoryBroker()
    try:
        return _open_stream(scheme, settings.broker)
    except ImportError as error:
        raise UsageError(
            f"{mask_url(settings.broker)} needs the package {error.name}: pip install 'erpkit[brokers]'"
        ) from None


def _open_stream(scheme: str, url: str) -> Broker:
    if scheme == "nats":
        from erpkit.events.brokers.nats import NatsBroker  # noqa: PLC0415

        return NatsBroker(url)
    if scheme == "kafka":
        from erpkit.events.brokers.kafka import KafkaBroker  # noqa: PLC0415

        return KafkaBroker(url)
    if scheme in {"redis", "rediss"}:
        from erpkit.events.brokers.redis import RedisBroker  # noqa: PLC0415

        return RedisBroker(url)
    from erpkit.events.brokers.rabbit import RabbitBroker  # noqa: PLC0415

    return RabbitBroker(url)
