"""What clients ask for: the params of the requests that the relay acts on itself, and what they leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, TypeVar

import msgspec

from relaykit.settings import ProjectSettings
from relaykit_gateway.acp.envelope import Message
from relaykit_gateway.acp.errors import INVALID_PARAMS, RpcError

T = TypeVar("T", bound=msgspec.Struct)


class Relaykit(msgspec.Struct, gc=False):
    """``_meta.relaykit``, of all requests."""

    role: str = ""
    agent: str = ""
    project: str = ""
    turn: str = ""
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    epoch: str | None = None


class _Meta(msgspec.Struct):
    relaykit: Relaykit | None = None


class _Asked(msgspec.Struct, rename="camel", kw_only=True):
    meta: _Meta | None = msgspec.field(default=None, name="_meta")
    mcp_servers: list[dict[str, Any]] | None = None

    @property
    def relaykit(self) -> Relaykit:
        """What is said to us."""
        return (self.meta and self.meta.relaykit) or Relaykit()


class NewSession(_Asked, rename="camel", kw_only=True):
    """``session/new``."""

    cwd: str = ""


class OfSession(_Asked, rename="camel", kw_only=True):
    """Whatever names a session."""

    session_id: str


class History(OfSession, rename="camel", kw_only=True):
    """``_relaykit/history``: the page before the entry `before`; None for the newest."""

    before: Annotated[int, msgspec.Meta(ge=1)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 100


class ListSessions(msgspec.Struct):
    """``session/list``."""

    cwd: str | None = None
    cursor: str | None = None


class CancelRequest(msgspec.Struct, rename="camel"):
    """``$/cancel_request``."""

    request_id: msgspec.Raw


class Initialize(msgspec.Struct, rename="camel"):
    """``initialize``."""

    client_capabilities: msgspec.Raw = msgspec.Raw(b"{}")


class Awareness(msgspec.Struct, rename="camel", frozen=True):
    """What a client that knows relaykit says of that: ``clientCapabilities._meta.relaykit``.

    :param own_turns: it wants to be told that turns begin also of those that it began on this connection.
    """

    own_turns: bool = True


class _Capabilities(msgspec.Struct):
    meta: dict[str, msgspec.Raw] | None = msgspec.field(default=None, name="_meta")


def params_of(message: Message, shape: type[T]) -> T:
    """Return the params of a request; fields that the shape does not have are ignored.

    :raises RpcError: one is missing, or of the wrong kind.
    """
    try:
        return msgspec.json.decode(message.params or b"{}", type=shape)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RpcError(INVALID_PARAMS, f"{message.method}: {error}") from error


def awareness(params: bytes | msgspec.Raw) -> Awareness | None:
    """Return what a client says in ``initialize`` of what it knows of relaykit; None if it says nothing."""
    try:
        capabilities = msgspec.json.decode(params or b"{}", type=Initialize).client_capabilities
        meta = msgspec.json.decode(capabilities, type=_Capabilities).meta or {}
    except (msgspec.MsgspecError, RecursionError):
        return None
    said = bytes(meta.get("relaykit", b""))
    if not said.startswith(b"{"):
        return None
    try:
        return msgspec.json.decode(said, type=Awareness)
    except (msgspec.MsgspecError, RecursionError):
        return Awareness()


def check_mcp_servers(servers: Sequence[Mapping[str, Any]] | None, *, allowed: bool) -> None:
    """Let through MCP servers that start no program, where clients may name any.

    :raises RpcError: there is another.
    """
    for server in servers or ():
        name = str(server.get("name", ""))[:100]
        if "command" in server or server.get("type") not in {"http", "sse"}:
            raise RpcError(
                INVALID_PARAMS,
                f"mcpServers: {name!r} is not of the type http or sse, and a client starts no programs on the "
                "relay's machine: configure it as `mcp_servers` of the agent, in the relay's settings",
            )
        if not allowed:
            raise RpcError(
                INVALID_PARAMS,
                f"mcpServers: {name!r} is refused, as all are that clients name: set `client_mcp_servers = true` "
                "in [plugins.gateway], or configure it as `mcp_servers` of the agent",
            )


def project_at(cwd: str, projects: Mapping[str, ProjectSettings]) -> str:
    """Return the project that a client's directory suggests; empty if it suggests none.

    It is a path on the client's machine: it is compared with what is configured, and nothing else. The deepest
    project that holds it goes before one that is named as the directory is.
    """
    if not cwd:
        return ""
    here = PurePath(cwd)
    holding = [
        (len(project.path.parts), name)
        for name, project in projects.items()
        if here == project.path or project.path in here.parents
    ]
    if holding:
        return max(holding)[1]
    return here.name if here.name in projects else ""
