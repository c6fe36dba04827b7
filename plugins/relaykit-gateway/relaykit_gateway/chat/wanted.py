"""Wanted: the session that a command talks in."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit_gateway.acp_client import AcpClient, Json, SessionOpened

CAPABILITIES: Json = {"elicitation": {"form": {}, "url": {}}}
"""What a person at a terminal can do for an agent, besides permitting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which session to talk in: one that there is, or a new one.

    :param agent: empty for the relay's default one; so is `project`.
    :param cwd: where the person is, from which the relay may guess the project.
    """

    session_id: str | None
    role: str
    agent: str = ""
    project: str = ""
    cwd: str = "/"

    async def open(self, client: AcpClient, *, replay: bool) -> SessionOpened:
        """Create it, or begin to follow it.

        :param replay: whether to hear what was said in it before.
        """
        if self.session_id is not None:
            follow = client.load_session if replay else client.resume_session
            return await follow(self.session_id)
        return await client.new_session(role=self.role, agent=self.agent, project=self.project, cwd=self.cwd)
