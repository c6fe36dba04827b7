"""Agents and the places where they work: contracts, and the workspaces that need no git."""

from relaykit.agent.agent import Agent
from relaykit.agent.launcher import AgentLauncher, AgentSpec, LauncherFactory, Record, ToolUse
from relaykit.agent.workspace import DirectoryWorkspace, InPlaceWorkspace, Say, Workspace

__all__ = [
    "Agent",
    "AgentLauncher",
    "AgentSpec",
    "DirectoryWorkspace",
    "InPlaceWorkspace",
    "LauncherFactory",
    "Record",
    "Say",
    "ToolUse",
    "Workspace",
]
