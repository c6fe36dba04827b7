"""A policy by a hook: no private key goes to an agent. And a relay on trio, without a gateway."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from relaykit.errors import Refused
from relaykit.hooks import PromptRequest, hookimpl, load_plugins
from relaykit.relay import open_relay
from relaykit.settings import load_settings


@hookimpl
async def relaykit_check_prompt(request: PromptRequest) -> None:
    if b"PRIVATE KEY" in request.body:
        raise Refused("that is a private key")


async def main() -> None:
    with TemporaryDirectory() as scratch:
        environ = {
            "HOME": scratch,
            "RELAYKIT_RELAY__STATE_DIR": f"{scratch}/state",
            "RELAYKIT_RELAY__WORKSPACE": "in_place",
        }
        settings = load_settings(environ=environ, cwd=Path(scratch))
        plugins = load_plugins(settings, extra={"no_keys": sys.modules[__name__]})
        async with open_relay(settings, plugins=plugins) as relay:
            session = await relay.create("auth", agent="echo")
            async with relay.attach(session.id, client_id="me", protocol="example") as cursor:
                while not relay.live(session.id).ready:
                    await cursor.next()
                key = b'{"prompt": [{"type": "text", "text": "BEGIN PRIVATE KEY"}]}'
                try:
                    await relay.prompt(session.id, key, client_id="me", turn="t1")
                except Refused as refused:
                    print(refused)


if __name__ == "__main__":
    anyio.run(main, backend="trio")
