"""A plugin that takes over the relay protocol: every valid message comes back with a timestamp.

Installed as a package it needs no more than its entry point; here it is given to a relay by hand, which a
client then talks to over a real WebSocket.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio

from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.registration import MessageClient, MessageType
from relaykit.relay import open_relay
from relaykit.settings import load_settings
from relaykit_gateway.address import find_relay
from relaykit_gateway.ws_client import connect


@hookimpl
def relaykit_register_messages() -> Sequence[MessageType]:
    return [MessageType(name="*", handle=echo, replaces=True)]


async def echo(client: MessageClient, message: Mapping[str, Any]) -> None:
    await client.send({**message, "timestamp": client.relay.clock.now().isoformat()})


async def main() -> None:
    with TemporaryDirectory() as scratch:
        environ = {
            "HOME": scratch,
            "RELAYKIT_RELAY__STATE_DIR": f"{scratch}/state",
            "RELAYKIT_PLUGINS__GATEWAY__PORT": "0",
        }
        settings = load_settings(environ=environ, cwd=Path(scratch))
        plugins = load_plugins(settings, extra={"echo_messages": sys.modules[__name__]})
        async with (
            open_relay(settings, plugins=plugins, serve=True),
            connect(find_relay(settings)) as client,
        ):
            print((await client.receive())["type"])
            await client.send("session:create", agentId="auth")
            answer = await client.receive()
            print(answer["type"], answer["agentId"], "timestamp" in answer)


if __name__ == "__main__":
    anyio.run(main)
