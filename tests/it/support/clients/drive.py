"""Tests the server with the official Python client. Usage: drive.py URL, or
drive.py PROGRAM ARGUMENT... for a server on stdin and stdout."""
import asyncio
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client import streamable_http
from mcp.client.stdio import stdio_client


async def drive(session):
    await session.initialize()
    assert len((await session.list_tools()).tools) == 19

    async def call(tool, **arguments):
        result = (await session.call_tool(tool, arguments)).model_dump(by_alias=True)
        assert not result["isError"], result
        return result["structuredContent"]

    name = (await call("create_sandbox", base="quick"))["name"]
    status = "provisioning"
    while status == "provisioning":
        await asyncio.sleep(0.05)
        every = (await call("list_sandboxes"))["sandboxes"]
        status = next(it["status"] for it in every if it["name"] == name)
    assert status == "running", status
    await call("write_file", name=name, path="/root/a", content="é\n")
    ran = await call("exec", name=name, command=["cat", "/root/a"])
    assert (ran["exit_code"], ran["stdout"]) == (0, "é\n"), ran
    job = await call("exec_start", name=name, command=["sh", "-c", "echo 1; exit 3"])
    polled = {"state": "running"}
    while polled["state"] == "running":
        polled = await call("exec_poll", name=name, wait_sec=5, **job)
    assert (polled["state"], polled["exit_code"]) == ("exited", 3), polled
    await call("checkpoint_sandbox", name=name, label="c")
    fork = await call("fork_sandbox", name=name, checkpoint="c", wait_sec=60)
    ran = await call("exec", name=fork["name"], command=["cat", "/root/a"])
    assert ran["stdout"] == "é\n", ran
    for one in (name, fork["name"]):
        await call("destroy_sandbox", name=one)


async def main(way):
    if way[0].startswith("http"):
        # Older releases of the client use another function name.
        connect = getattr(streamable_http, "streamable_http_client", None)
        transport = (connect or streamable_http.streamablehttp_client)(way[0])
    else:
        server = StdioServerParameters(command=way[0], args=way[1:], env=dict(os.environ))
        transport = stdio_client(server)
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await drive(session)


asyncio.run(main(sys.argv[1:]))
