"""Publishes 200-byte events to JetStream, each with an id by which repeats are known. Usage: nats_publisher.py URL CONNECTIONS SECONDS

Every connection waits for the acknowledgement before it sends the next. Prints `{"per_second", "latencies_us"}`.
"""

import asyncio
import json
import sys
import time
import uuid

import nats

url, connections, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
EVENT = b"x" * 200


async def publish(js, end: float, latencies_us: list[float]) -> None:
    while (start := time.perf_counter()) < end:
        await js.publish("events", EVENT, headers={"Nats-Msg-Id": uuid.uuid4().hex})
        latencies_us.append((time.perf_counter() - start) * 1e6)


async def main() -> None:
    clients = [await nats.connect(url) for _ in range(connections)]
    latencies_us: list[float] = []
    start = time.perf_counter()
    await asyncio.gather(*(publish(client.jetstream(timeout=30), start + seconds, latencies_us) for client in clients))
    elapsed = time.perf_counter() - start
    for client in clients:
        await client.close()
    print(json.dumps({"per_second": len(latencies_us) / elapsed, "latencies_us": latencies_us[::10]}))


asyncio.run(main())
