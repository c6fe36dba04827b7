"""``[[permissions]]``: rules that answer agents' requests for permission without a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relaykit.settings.declaration import setting


class RuleAction(StrEnum):
    """What a rule does with the requests that it matches."""

    ALLOW = "allow"
    REJECT = "reject"
    ASK = "ask"


class ToolKind(StrEnum):
    """ACP's kinds of tools."""

    READ = "read"
    EDIT = "edit"
    DELETE = "delete"
    MOVE = "move"
    SEARCH = "search"
    EXECUTE = "execute"
    THINK = "think"
    FETCH = "fetch"
    SWITCH_MODE = "switch_mode"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionRule:
    """One table of ``[[permissions]]``: it matches what has everything that it names."""

    action: RuleAction = setting(
        help='`"allow"` (once, where the agent offers that), `"reject"`, or `"ask"`: people are asked, whatever later '
        "rules say",
    )
    kind: ToolKind | None = setting(
        None, help=f"the tool's kind, as ACP has it: {', '.join(f'`{kind}`' for kind in ToolKind)}"
    )
    path: str | None = setting(
        None,
        help="a pattern for the files that are touched, absolute or in the session's worktree: `*` and `?` stay within "
        "one name, `**` is any number of directories, a `/` at the end means what is in there",
    )
    agent: str | None = setting(None, help="the agent's name")
    project: str | None = setting(None, help="the project's name")

    def __post_init__(self) -> None:
        if self.path is None:
            return
        if not self.path.strip("/") or "\0" in self.path:
            raise ValueError("path names nothing: leave it out to mean every path")
        if self.path.startswith("~"):
            raise ValueError("path begins with `~`: write the directory out")
        if not {".", ".."}.isdisjoint(self.path.split("/")):
            raise ValueError("path has `.` or `..` in it, and no path that is compared with it has")

    def __str__(self) -> str:
        """Return for people what it says: ``allow: kind edit, path src/**``."""
        names = {"kind": self.kind, "path": self.path, "agent": self.agent, "project": self.project}
        said = ", ".join(f"{name} {value}" for name, value in names.items() if value is not None)
        return f"{self.action}: {said or 'everything'}"
