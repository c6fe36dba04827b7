"""An attic: every kind of part that a plugin may provide, and every check."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from relaykit.agent import AgentSpec, LauncherFactory, Workspace
from relaykit.hooks import (
    ModeRequest,
    PermissionRequest,
    PluginContext,
    PromptRequest,
    Refused,
    SessionRequest,
    StorageFactory,
    hookimpl,
)
from relaykit.session import Cleaner

NAME = "attic"


@hookimpl
def relaykit_register_agents(context: PluginContext) -> Mapping[str, AgentSpec]:
    """Offer an agent."""
    assert not context.agents, "agents are being registered"
    command = (sys.executable, "-m", NAME)
    return {NAME: AgentSpec(name=NAME, command=command, env={}, launcher="perch", login=None, mcp_servers=())}


@hookimpl
def relaykit_register_storages(context: PluginContext) -> Mapping[str, StorageFactory]:
    """Offer a storage."""
    from relaykit_attic.parts import open_storage

    assert context.ids.new_id() != context.ids.new_id()
    return {NAME: open_storage}


@hookimpl
def relaykit_register_workspaces(context: PluginContext) -> Mapping[str, Workspace]:
    """Offer a workspace."""
    from relaykit_attic.parts import Boxes

    return {NAME: Boxes(context.state_dir / context.name, context.projects)}


@hookimpl
def relaykit_register_launchers(context: PluginContext) -> Mapping[str, LauncherFactory]:
    """Offer a launcher."""
    from relaykit_attic.parts import open_launcher

    assert NAME in context.agents
    assert context.meter is not None
    return {"perch": open_launcher}


@hookimpl
def relaykit_register_cleaners() -> Sequence[Cleaner]:
    """Offer a cleaner, which runs because it is called as the workspace."""
    from relaykit_attic.parts import Sweeper

    return [Sweeper()]


@hookimpl
async def relaykit_check_session(request: SessionRequest) -> None:
    """Refuse a role."""
    if request.agent_id == "ghost":
        raise Refused(f"no ghosts, {request.owner}, in {request.project}: not even as {request.agent}")


@hookimpl
async def relaykit_check_prompt(request: PromptRequest) -> None:
    """Refuse a word."""
    if b"boo" in request.body:
        raise Refused(f"{request.client_id} frightens {request.session.agent_id}")


@hookimpl
async def relaykit_check_permission(request: PermissionRequest) -> None:
    """Refuse a kind of tool."""
    if b'"delete"' in request.request.body:
        raise Refused(f"{request.session.agent_id} deletes nothing by {request.request.method}")


@hookimpl
async def relaykit_check_mode(request: ModeRequest) -> None:
    """Refuse a mode."""
    if b"haunted" in request.call.body:
        raise Refused(f"{request.client_id} may not {request.call.method} of {request.session.agent_id}")
