"""A session by script: a prompt, its answer as it comes, a question that is answered, and the end.

    RELAYKIT_TOKEN=… python examples/scripted_session.py http://127.0.0.1:7433 "what does this repository do?"

The relay runs somewhere (`relaykit serve`); a network that is lost meanwhile is waited for.
"""

import os
import sys

import anyio

from relaykit.client import Question, Update, connect


async def allow_once(question: Question) -> str | None:
    """Allow what the agent wants to do, this one time; leave to people what is no permission."""
    options = question.params.get("options", [])
    return next((option["optionId"] for option in options if option["kind"] == "allow_once"), None)


async def main(url: str, prompt: str) -> None:
    async with connect(url, token=os.environ.get("RELAYKIT_TOKEN")) as relay:
        session = await relay.create(on_question=allow_once)
        turn = session.prompt(prompt)
        async for said in turn:
            if isinstance(said, Update):
                print(said.text, end="", flush=True)
        print(f"\n({turn.stop_reason})")
        await session.close()


anyio.run(main, sys.argv[1], sys.argv[2])
