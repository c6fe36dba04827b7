"""Agent: a running agent, as a session sees it. The contract alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relaykit.conversation.frame import Frame
from relaykit.session.model import Json


class Agent(Protocol):
    """One agent that takes prompts, in its own process or elsewhere."""

    @property
    def opened(self) -> Json:
        """What the agent said of the session when it was opened, as it stands now (ACP: modes, config options)."""
        ...

    @property
    def needs_login(self) -> bool:
        """It refused the last prompt until a person logs it in. It is worth another prompt once one has."""
        ...

    async def send(self, frame: Frame, /) -> None:
        """Give the agent a PROMPT, CANCEL, CALL or DECISION. A CANCEL with a `ref` means that CALL.

        May wait while the agent does not read. Calls may be concurrent; each frame goes out whole, also
        when the caller is cancelled.

        :raises AgentGone: its process has ended, or it has been closed.
        :raises ValueError: the body is not what the frame needs.
        """
        ...

    def send_nowait(self, frame: Frame, /) -> bool:
        """Do what `send` does if nothing has to be waited for; else do nothing and return False.

        It saves a task its turn. An implementation may always return False.

        :raises ValueError: the body is not what the frame needs.
        """
        ...

    async def receive(self) -> Sequence[Frame]:
        """Return what the agent said since the last call: at least one frame, in order. A single reader.

        A turn that is open when the agent is gone has no end here: whoever prompted it says how it ended.

        :raises EndOfStream: (anyio's) the agent is gone and everything that it said was returned.
        :raises AgentError: it broke the protocol in a way that cannot be continued from.
        :raises AgentOverLimit: it was ended because it used more than settings allow.
        """
        ...

    def farewell(self) -> str:
        """Return for people how the agent ended: exit code or signal, and its last words on stderr."""
        ...

    async def aclose(self) -> None:
        """Stop the agent and everything that it started. Idempotent; concurrent calls wait for the first."""
        ...
