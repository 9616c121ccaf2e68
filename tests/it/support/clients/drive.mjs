// Tests the server with the official TypeScript client. Usage: drive.mjs URL, or
// drive.mjs PROGRAM ARGUMENT... for a server on stdin and stdout.
import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [first, ...rest] = process.argv.slice(2);
const transport = first.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(first))
  : new StdioClientTransport({ command: first, args: rest, env: process.env });
const client = new Client({ name: "test", version: "1" });
await client.connect(transport);
assert.equal((await client.listTools()).tools.length, 19);

const call = async (name, args = {}) => {
  const result = await client.callTool({ name, arguments: args });
  assert(!result.isError, JSON.stringify(result));
  return result.structuredContent;
};

const { name } = await call("create_sandbox", { base: "quick" });
let status = "provisioning";
while (status === "provisioning") {
  await new Promise((resolve) => setTimeout(resolve, 50));
  const { sandboxes } = await call("list_sandboxes");
  status = sandboxes.find((it) => it.name === name).status;
}
assert.equal(status, "running");
await call("write_file", { name, path: "/root/a", content: "é\n" });
let ran = await call("exec", { name, command: ["cat", "/root/a"] });
assert.deepEqual([ran.exit_code, ran.stdout], [0, "é\n"]);
// Canceling a call also ends its command in the sandbox.
const giveUp = new AbortController();
const sleep = { name: "exec", arguments: { name, command: ["sleep", "1234"] } };
const sleeping = client.callTool(sleep, undefined, { signal: giveUp.signal });
const sleeps = async () =>
  (await call("exec", { name, command: ["pgrep", "-xf", "sleep 1234"] })).exit_code === 0;
while (!(await sleeps()));
giveUp.abort();
await assert.rejects(sleeping);
while (await sleeps());

const job = await call("exec_start", { name, command: ["sh", "-c", "echo 1; exit 3"] });
let polled = { state: "running" };
while (polled.state === "running") {
  polled = await call("exec_poll", { name, wait_sec: 5, ...job });
}
assert.deepEqual([polled.state, polled.exit_code], ["exited", 3]);
await call("checkpoint_sandbox", { name, label: "c" });
const fork = await call("fork_sandbox", { name, checkpoint: "c", wait_sec: 60 });
ran = await call("exec", { name: fork.name, command: ["cat", "/root/a"] });
assert.equal(ran.stdout, "é\n");
for (const one of [name, fork.name]) {
  await call("destroy_sandbox", { name: one });
}
await client.close();
