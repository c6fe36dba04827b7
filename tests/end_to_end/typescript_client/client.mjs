// A conversation through the official TypeScript SDK, with the echo agent at the other end.
//
//   node client.mjs stdio COMMAND …     with an agent that it starts
//   node client.mjs websocket URL TOKEN with a relay, where sessions can be loaded and resumed too
//
// What happens is written to stdout, one JSON object a line. The SDK is found in RELAYKIT_REAL_AGENTS.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";

const installed = createRequire(`${process.env.RELAYKIT_REAL_AGENTS}/package.json`);
const load = (name) => import(pathToFileURL(installed.resolve(name)).href);

const { client, methods, ndJsonStream, PROTOCOL_VERSION } = await load("@agentclientprotocol/sdk");
const { createWebSocketStream } = await load("@agentclientprotocol/sdk/experimental/ws-client");
const WebSocket = installed("ws");

const cwd = process.cwd();
const tell = (what, value) => console.log(JSON.stringify({ what, value }));

// Runs `talk` with one connection; updates are told as they come, and every permission is given.
function connected(stream, talk) {
  const { session } = methods.client;
  return client({ name: "typescript-client" })
    .onNotification(session.update, ({ params }) => tell("update", params))
    .onRequest(session.requestPermission, ({ params }) => {
      tell("permission", params);
      const allowed = params.options.find((option) => option.kind === "allow_once");
      return { outcome: { outcome: "selected", optionId: allowed.optionId } };
    })
    .connectWith(stream, async (agent) => {
      const ask = async (method, params) => {
        const answer = await agent.request(method, params);
        tell(method, answer);
        return answer;
      };
      await ask(methods.agent.initialize, {
        protocolVersion: PROTOCOL_VERSION,
        clientCapabilities: { fs: { readTextFile: false, writeTextFile: false }, terminal: false },
        clientInfo: { name: "typescript-client", version: "1.0.0" },
      });
      return talk(agent, ask);
    });
}

async function converse(agent, ask) {
  const { new: open, setMode, prompt, cancel } = methods.agent.session;
  const { sessionId } = await ask(open, { cwd, mcpServers: [] });
  const say = (text) => ask(prompt, { sessionId, prompt: [{ type: "text", text }] });
  await say("grüße 🙂");
  await ask(prompt, {
    sessionId,
    prompt: [
      { type: "text", text: "a text, " },
      { type: "resource_link", uri: "file:///a.txt", name: "a.txt" },
      { type: "image", data: "AAEC", mimeType: "image/png", annotations: { priority: 0.5 } },
    ],
    _meta: { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" },
  });
  await say("/ask");
  await ask(setMode, { sessionId, modeId: "shout" });
  const sleeping = say("/sleep 600");
  await agent.notify(cancel, { sessionId });
  await sleeping;
  return sessionId;
}

async function overWebSocket(url, token) {
  const headers = { Authorization: `Bearer ${token}` };
  const connect = (talk) => connected(createWebSocketStream(url, { WebSocket, headers }), talk);
  const sessionId = await connect(converse);
  const { load: reload, resume, prompt, list, close } = methods.agent.session;
  await connect(async (_agent, ask) => {
    await ask(reload, { sessionId, cwd, mcpServers: [] });
  });
  await connect(async (_agent, ask) => {
    await ask(resume, { sessionId, cwd, mcpServers: [] });
    await ask(prompt, { sessionId, prompt: [{ type: "text", text: "still there?" }] });
    await ask(list, {});
    await ask(close, { sessionId });
  });
}

async function overStdio(program, ...rest) {
  const agent = spawn(program, rest, { stdio: ["pipe", "pipe", "inherit"] });
  await connected(ndJsonStream(Writable.toWeb(agent.stdin), Readable.toWeb(agent.stdout)), converse);
  agent.stdin.end();
}

const [how, ...rest] = process.argv.slice(2);
await (how === "stdio" ? overStdio(...rest) : overWebSocket(...rest));
tell("done", null);
