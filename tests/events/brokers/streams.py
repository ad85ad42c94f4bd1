"""What is in a NATS server's streams, read and purged as any other program would."""

import asyncio

import nats as nats_client

from erpkit.nats import NatsServer

Stored = tuple[str, int, dict[str, str], bytes]


def stored(server: NatsServer, tenant: str, subject: str = "erp", stream: str = "ERP") -> list[Stored]:
    """Read subject, offset, headers and body of each message of a tenant, in order."""

    async def read() -> list[Stored]:
        client = await nats_client.connect(server.url)
        jetstream = client.jetstream()
        subjects = f"{subject}.{tenant}.>"
        state = (await jetstream.stream_info(stream, subjects_filter=subjects)).state
        count = sum((state.subjects or {}).values())
        subscription = await jetstream.subscribe(subjects, stream=stream, ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=10) for _ in range(count)]
        await client.close()
        found = [(each.subject, dict(each.headers or {}), each.data) for each in messages]
        return [(place, int(headers["offset"]), headers, data) for place, headers, data in found]

    return asyncio.run(read())


def purge_stream(server: NatsServer) -> None:
    """Remove all messages from the stream of what was forwarded."""

    async def purge() -> None:
        client = await nats_client.connect(server.url)
        await client.jetstream().purge_stream("ERP")
        await client.close()

    asyncio.run(purge())


def take(server: NatsServer, consumer: str, subject: str) -> None:
    """Take a message as one of the consumer's processes, and do not acknowledge it."""

    async def fetch() -> None:
        client = await nats_client.connect(server.url)
        subscription = await client.jetstream().pull_subscribe(subject, durable=consumer, stream="ERP")
        await subscription.fetch(1, timeout=10)
        await client.close()

    asyncio.run(fetch())
