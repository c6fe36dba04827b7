"""The agents that are known without settings: what each is called, started, installed and logged in by.

Taken from the agents' own documentation, the registry of ACP agents and npm, in November 2026.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from relaykit_acp.npx import parse_npx


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAgent:
    """An agent that many people have.

    :param name: what it is called in settings and by clients.
    :param command: its program, as found on PATH, and the arguments that have it speak ACP.
    :param package: the npm package that has the program, with the major versions that are known to work.
    :param install: how to get it: a command, or where that is said.
    :param login: the command that logs it in; its program may be another one than that of `command`.
    :param login_package: the npm package that has the program of `login`; by default `package`.
    :param variables: names of environment variables that it commonly needs. None is passed on unless
        ``[agents.NAME] env`` names it.
    :param credentials: files below the home directory; if one is there, somebody has logged in.
    :param absence_tells: without one of these, nobody has: it keeps credentials nowhere else.
    """

    name: str
    title: str
    command: tuple[str, ...]
    install: str
    package: str | None = None
    login: tuple[str, ...] = ()
    login_package: str | None = None
    variables: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    absence_tells: bool = False


KNOWN_AGENTS: Sequence[KnownAgent] = (
    KnownAgent(
        name="claude",
        title="Claude Code",
        command=("claude-agent-acp",),
        package="@agentclientprotocol/claude-agent-acp@0",
        install="npm install -g @agentclientprotocol/claude-agent-acp",
        login=("claude", "/login"),
        login_package="@anthropic-ai/claude-code",
        variables=("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
        credentials=(".claude/.credentials.json",),
        absence_tells=sys.platform != "darwin",  # where it uses the keychain
    ),
    KnownAgent(
        name="gemini",
        title="Gemini CLI",
        command=("gemini", "--acp"),
        package="@google/gemini-cli@0",
        install="npm install -g @google/gemini-cli",
        login=("gemini",),
        variables=("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT", "GOOGLE_GENAI_USE_VERTEXAI"),
        credentials=(".gemini/oauth_creds.json",),
    ),
    KnownAgent(
        name="opencode",
        title="opencode",
        command=("opencode", "acp"),
        package="opencode-ai@1",
        install="npm install -g opencode-ai",
        login=("opencode", "auth", "login"),
        variables=("OPENCODE_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
        credentials=(".local/share/opencode/auth.json",),
    ),
    KnownAgent(
        name="codex",
        title="Codex",
        command=("codex-acp",),
        package="@agentclientprotocol/codex-acp@2",
        install="npm install -g @agentclientprotocol/codex-acp",
        login=("codex", "login"),
        login_package="@openai/codex",
        variables=("CODEX_API_KEY", "OPENAI_API_KEY"),
        credentials=(".codex/auth.json",),
    ),
    KnownAgent(
        name="qwen",
        title="Qwen Code",
        command=("qwen", "--acp"),
        package="@qwen-code/qwen-code@0",
        install="npm install -g @qwen-code/qwen-code",
        login=("qwen",),
        variables=("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL", "DASHSCOPE_API_KEY"),
        credentials=(".qwen/oauth_creds.json",),
    ),
    KnownAgent(
        name="kimi",
        title="Kimi Code CLI",
        command=("kimi", "acp"),
        package="@moonshot-ai/kimi-code@2",
        install="npm install -g @moonshot-ai/kimi-code",
        login=("kimi", "login"),
    ),
    KnownAgent(
        name="mistral-vibe",
        title="Mistral Vibe",
        command=("vibe-acp",),
        install="uv tool install mistral-vibe",
        login=("vibe", "--setup"),
        variables=("MISTRAL_API_KEY",),
        credentials=(".vibe/.env",),
    ),
    KnownAgent(
        name="auggie",
        title="Auggie CLI",
        command=("auggie", "--acp"),
        package="@augmentcode/auggie@0",
        install="npm install -g @augmentcode/auggie",
        login=("auggie", "login"),
        variables=("AUGMENT_SESSION_AUTH",),
        credentials=(".augment/session.json",),
        absence_tells=True,
    ),
    KnownAgent(
        name="fast-agent",
        title="fast-agent",
        command=("fast-agent-acp",),
        install="uv tool install fast-agent-acp",
        variables=("ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
    ),
    # Last, because there are other programs of these names.
    KnownAgent(
        name="goose",
        title="goose",
        command=("goose", "acp"),
        install="https://block.github.io/goose/docs/getting-started/installation",
        login=("goose", "configure"),
        variables=("GOOSE_PROVIDER", "GOOSE_MODEL", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"),
    ),
    KnownAgent(
        name="copilot",
        title="GitHub Copilot CLI",
        command=("copilot", "--acp"),
        package="@github/copilot@1",
        install="npm install -g @github/copilot",
        login=("copilot", "login"),
        variables=("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"),
    ),
)
"""In order of preference: of those that are found, the first is the agent of sessions that name none."""


def known_agent(command: Sequence[str]) -> KnownAgent | None:
    """Return the known agent that a configured command starts, by its program or by its npm package."""
    npx = parse_npx(command)
    program = os.path.basename(command[0])  # noqa: PTH119 -- asked at each launch, and a path costs ten times that
    for known in KNOWN_AGENTS:
        if npx is not None:
            if known.package is not None and npx.name == _name_of(known.package):
                return known
        elif program == known.command[0]:
            return known
    return None


def _name_of(package: str) -> str:
    return package[: package.rindex("@")]
