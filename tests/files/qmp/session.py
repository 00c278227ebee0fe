"""A session of the Python package qemu.qmp (the one QEMU's own tools use) with the emulator.

usage: session.py SOCKET
"""
import asyncio
import sys

from qemu.qmp import QMPClient, ExecuteError


async def main(path):
    client = QMPClient("tinamou")
    await client.connect(path)
    version = await client.execute("query-version")
    print("version", version["qemu"]["major"])
    with client.listener(names=["STOP", "RESUME"]) as events:
        await client.execute("cont")
        print("event", (await events.get())["event"])
        await client.execute("stop")
        print("event", (await events.get())["event"])
    print("status", (await client.execute("query-status"))["status"])
    try:
        await client.execute("qom-get", {"path": "/nope", "property": "x"})
    except ExecuteError as error:
        print("error", error)
    replies = await asyncio.gather(*(client.execute("query-name") for _ in range(50)))
    print("replies", len(replies))
    schema = await client.execute("query-qmp-schema")
    print("schema", len(schema) > 100)
    await client.execute("quit")
    await client.disconnect()


asyncio.run(main(sys.argv[1]))
