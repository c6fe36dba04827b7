"""Every error that relaykit raises, in one tree.

::

    RelaykitError
    ├── SessionError
    │   ├── SessionNotFound (LookupError)
    │   ├── SessionElsewhere
    │   ├── DuplicateSession
    │   ├── DuplicateRole
    │   ├── InvalidAgentId (ValueError)
    │   ├── TransitionError
    │   ├── SessionNotActive
    │   ├── SessionLimit
    │   ├── UnknownAgent (LookupError)
    │   ├── UnknownProject (LookupError)
    │   ├── QuestionClosed (LookupError)
    │   ├── TurnQueueFull
    │   ├── NotAllowed
    │   ├── ReentrantCall (RuntimeError)
    │   └── ManagerClosed (RuntimeError)
    ├── StoreError
    │   └── StaleVersion
    ├── JournalError
    │   ├── JournalConflict
    │   └── CursorAhead (ValueError)
    ├── AgentError
    │   ├── AgentGone
    │   ├── FrameTooLarge (ValueError)
    │   ├── AgentOverLimit
    │   └── SpawnError
    │       ├── ProgramNotFound
    │       ├── WorkingDirectoryMissing
    │       ├── FetchFailed
    │       ├── SpawnQueueTimeout
    │       ├── AgentExited
    │       ├── InitializeTimeout
    │       ├── LoginRequired
    │       └── AgentProtocolError
    ├── WorkspaceError
    │   └── NotARepository
    ├── SettingsError (ValueError)
    ├── PluginError
    │   ├── PluginLoadError
    │   ├── IncompatiblePlugin
    │   ├── DuplicatePlugin
    │   ├── InvalidHook
    │   └── UnknownImplementation (LookupError)
    ├── Leaked (RuntimeError)
    └── Refused

There is a class for each thing that a caller handles differently, and each carries its facts as
attributes. Messages are for people: what was wrong, where, and what to do. None of them holds the
value of a secret.
"""

from __future__ import annotations

from collections.abc import Iterable

LAST_WORDS = "; its last words were:\n"
"""What a program wrote before it ended stands behind this, at the end of a message."""


def without_last_words(message: str) -> str:
    """Return a message less what a program wrote before it ended, which may hold what it was told."""
    return message.partition(LAST_WORDS)[0]


class RelaykitError(Exception):
    """The base of all of relaykit's errors."""


# ---------------------------------------------------------------- sessions


class SessionError(RelaykitError):
    """Something that was asked of a session cannot be done."""


class SessionNotFound(SessionError, LookupError):
    """No live session has this id."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id!r}: it never existed, or it has ended")
        self.session_id = session_id


class SessionElsewhere(SessionError):
    """The session lives on another node, which is the one to ask."""

    def __init__(self, session_id: str, node: str) -> None:
        super().__init__(f"session {session_id!r} lives on the node {node!r}: ask there")
        self.session_id = session_id
        self.node = node


class DuplicateSession(SessionError):
    """The store already holds a session with this id."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"there is already a session {session_id!r}")
        self.session_id = session_id


class DuplicateRole(SessionError):
    """The role is taken: one live session per owner, project and role."""

    def __init__(self, agent_id: str, *, owner: str, project: str, session_id: str) -> None:
        super().__init__(
            f"the role {agent_id!r} of project {project!r} is already played by session {session_id!r}: "
            "attach to that session, stop it, or choose another role"
        )
        self.agent_id = agent_id
        self.owner = owner
        self.project = project
        self.session_id = session_id


class InvalidAgentId(SessionError, ValueError):
    """The role's name is not one that may become a directory and a branch."""

    def __init__(self, agent_id: object) -> None:
        super().__init__(
            f"{agent_id!r} is not a valid agent id: use 1 to 64 of a-z, A-Z, 0-9, '_' and '-', "
            "beginning with a letter or a digit"
        )
        self.agent_id = agent_id


class TransitionError(SessionError):
    """The session's state does not allow this event."""

    def __init__(self, state: str, event: str, *, session_id: str | None = None) -> None:
        where = f"session {session_id!r} is {state}" if session_id else f"a session that is {state}"
        super().__init__(f"{where}: {event} is not possible in that state")
        self.state = state
        self.event = event
        self.session_id = session_id


class SessionNotActive(SessionError):
    """A message was meant for the agent of a session that is not ACTIVE."""

    def __init__(self, session_id: str, state: str) -> None:
        super().__init__(f"session {session_id!r} is {state}, not ACTIVE: its agent takes no messages")
        self.session_id = session_id
        self.state = state


class SessionLimit(SessionError):
    """There are as many sessions as settings allow.

    :param owner: whose sessions are limited; empty if it is those of all.
    """

    def __init__(self, limit: int, *, owner: str = "") -> None:
        whose, key = (f"{owner!r} has", "max_sessions_per_owner") if owner else ("there are", "max_sessions")
        super().__init__(
            f"{whose} {limit} sessions already, and no more are allowed: stop one, or raise {key} in [relay]"
        )
        self.limit = limit
        self.owner = owner


class UnknownAgent(SessionError, LookupError):
    """A session was to have an agent that neither settings nor plugins provide."""

    def __init__(self, agent: str, known: Iterable[str]) -> None:
        self.agent = agent
        self.known = tuple(sorted(known))
        asked = f"there is no agent {agent!r}{did_you_mean(agent, self.known)}" if agent else "name an agent"
        super().__init__(
            f"{asked}; configured: {', '.join(self.known) or 'none, add [agents.NAME] to the settings'}"
        )


class UnknownProject(SessionError, LookupError):
    """A session was to work in a project that settings do not have."""

    def __init__(self, project: str, known: Iterable[str]) -> None:
        self.project = project
        self.known = tuple(sorted(known))
        asked = (
            f"there is no project {project!r}{did_you_mean(project, self.known)}"
            if project
            else "name a project"
        )
        super().__init__(f"{asked}; configured: {', '.join(self.known)}")


class QuestionClosed(SessionError, LookupError):
    """The question was answered already, was cancelled, or never was."""

    def __init__(self, session_id: str, ref: str) -> None:
        super().__init__(
            f"session {session_id!r} has no open question {ref!r}: somebody answered it, or it ended"
        )
        self.session_id = session_id
        self.ref = ref


class TurnQueueFull(SessionError):
    """Too many prompts wait for the running turn to end; with a limit of 0, none may."""

    def __init__(self, session_id: str, limit: int) -> None:
        what = (
            f"has {limit} prompts waiting already" if limit else "has a turn to end before it takes a prompt"
        )
        super().__init__(f"session {session_id!r} {what}: wait for a turn to end, or cancel it")
        self.session_id = session_id
        self.limit = limit


class NotAllowed(SessionError):
    """A client asked for what its access does not let it do: see `relaykit.relay.access`.

    :param what: what was to be done, for people: ``to prompt``.
    :param why: what is in the way.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is not allowed: {why}")
        self.what = what
        self.why = why


class ReentrantCall(SessionError, RuntimeError):
    """A cleaner called the Manager for the session that it is cleaning, and would wait for itself."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"a cleaner of session {session_id!r} called the Manager to change that same session: "
            "it would wait for itself; return a CleanerResult instead"
        )
        self.session_id = session_id


class ManagerClosed(SessionError, RuntimeError):
    """The Manager is closing, or was never opened: it takes no new work."""

    def __init__(self) -> None:
        super().__init__("the Manager is not open: use `async with Manager(...)`, and make calls inside it")


# ---------------------------------------------------------------- storage


class StoreError(RelaykitError):
    """A store could not do what it was asked.

    :param plugin: the plugin whose store it is.
    """

    def __init__(self, message: str, *, plugin: str = "memory") -> None:
        super().__init__(f"{plugin}: {message}")
        self.plugin = plugin


class StaleVersion(StoreError):
    """Somebody else has saved this session meanwhile (or deleted it: ``found`` is None)."""

    def __init__(self, session_id: str, *, expected: int, found: int | None, plugin: str = "memory") -> None:
        what = f"version {found}" if found is not None else "nothing"
        super().__init__(
            f"session {session_id!r} was to be saved over version {expected}, but the store holds {what}",
            plugin=plugin,
        )
        self.session_id = session_id
        self.expected = expected
        self.found = found


class JournalError(RelaykitError):
    """A journal could not do what it was asked."""

    def __init__(self, message: str, *, plugin: str = "memory") -> None:
        super().__init__(f"{plugin}: {message}")
        self.plugin = plugin


class JournalConflict(JournalError):
    """The entries do not continue what the journal holds: another writer was there (the fence between nodes)."""

    def __init__(self, session_id: str, detail: str, *, plugin: str = "memory") -> None:
        super().__init__(f"the journal of session {session_id!r} refused entries: {detail}", plugin=plugin)
        self.session_id = session_id


class CursorAhead(JournalError, ValueError):
    """A client asked for what comes after an entry that does not exist."""

    def __init__(self, session_id: str, *, after: int, head: int) -> None:
        super().__init__(
            f"session {session_id!r} has no entry {after}: its newest is {head}; attach after {head} or less",
            plugin="relay",
        )
        self.session_id = session_id
        self.after = after
        self.head = head


# ---------------------------------------------------------------- agents and workspaces


class AgentError(RelaykitError):
    """Something went wrong with an agent's process or with what it says."""

    def __init__(self, message: str, *, agent: str) -> None:
        super().__init__(f"agent {agent!r}: {message}")
        self.agent = agent


class AgentGone(AgentError):
    """The agent's process has ended, or no longer reads."""

    def __init__(self, message: str, *, agent: str, exit_code: int | None = None) -> None:
        super().__init__(message, agent=agent)
        self.exit_code = exit_code


class FrameTooLarge(AgentError, ValueError):
    """One message of the agent is longer than the limit, in bytes."""

    def __init__(self, *, agent: str, limit: int) -> None:
        super().__init__(f"it sent a message longer than {limit} bytes", agent=agent)
        self.limit = limit


class AgentOverLimit(AgentError):
    """The agent, with all that it started, used more than settings allow, and was ended.

    :param limit: the setting, as ``memory_max = "2G" in [plugins.acp]``.
    :param stderr: the last lines that it wrote to its standard error.
    """

    def __init__(self, *, agent: str, limit: str, stderr: str = "") -> None:
        words = f"{LAST_WORDS}{stderr}" if stderr else ""
        super().__init__(f"it was ended because it went over its limit, {limit}{words}", agent=agent)
        self.limit = limit
        self.stderr = stderr


class SpawnError(AgentError):
    """The agent could not be brought to where it takes a prompt."""


class ProgramNotFound(SpawnError):
    """The agent's program is not on PATH, or may not be executed."""

    def __init__(self, program: str, *, agent: str) -> None:
        super().__init__(
            f"the program {program!r} was not found: install it, or correct `command` in [agents.{agent}]",
            agent=agent,
        )
        self.program = program


class WorkingDirectoryMissing(SpawnError):
    """The directory in which the agent was to start is not there."""

    def __init__(self, directory: str, *, agent: str) -> None:
        super().__init__(
            f"its working directory {directory!r} is missing: restore it, or correct `path` of its project",
            agent=agent,
        )
        self.directory = directory


class FetchFailed(SpawnError):
    """The package that the agent is in could not be fetched before its start.

    :param package: as its registry knows it, with the version that was asked for.
    :param why: what happened, for people.
    :param said: the last lines of who was to fetch it.
    """

    def __init__(self, package: str, why: str, *, agent: str, said: str = "") -> None:
        words = f"{LAST_WORDS}{said}" if said else ""
        super().__init__(
            f"npx could not fetch {package!r}: {why}. Try `npx --yes --package {package} -c true` as the user of "
            f"this relay, or install the package and name its program in `command` of [agents.{agent}]{words}",
            agent=agent,
        )
        self.package = package
        self.said = said


class SpawnQueueTimeout(SpawnError):
    """Too many other agents were being started for too long, in seconds.

    :param limit: how many are started at once.
    """

    def __init__(self, *, agent: str, limit: int, seconds: float) -> None:
        super().__init__(
            f"it waited {seconds:g} s to be started, because {limit} are started at once and others were before it: "
            "try again, or raise `max_spawning` or `spawn_queue_timeout` in [plugins.acp]",
            agent=agent,
        )
        self.limit = limit
        self.seconds = seconds


class AgentExited(SpawnError):
    """The agent ended before it was ready.

    :param stderr: the last lines that it wrote to its standard error.
    """

    def __init__(self, *, agent: str, exit_code: int | None, stderr: str = "") -> None:
        said = f"{LAST_WORDS}{stderr}" if stderr else ", and it wrote nothing to its standard error"
        super().__init__(f"it exited with {exit_code} before it was ready{said}", agent=agent)
        self.exit_code = exit_code
        self.stderr = stderr


class InitializeTimeout(SpawnError):
    """The agent did not answer in time, in seconds."""

    def __init__(self, method: str, *, agent: str, seconds: float, stderr: str = "") -> None:
        said = f"{LAST_WORDS}{stderr}" if stderr else ""
        super().__init__(
            f"no answer to {method!r} within {seconds:g} s: does its command speak ACP on stdio?{said}",
            agent=agent,
        )
        self.method = method
        self.seconds = seconds
        self.stderr = stderr


class LoginRequired(SpawnError):
    """The agent wants its user to log in first (JSON-RPC error -32000).

    :param login: the command that logs in, where it is known.
    """

    def __init__(self, message: str, *, agent: str, login: str | None = None) -> None:
        hint = (
            f"run `{login}`" if login else "run the agent's own login command once, as the user of this relay"
        )
        super().__init__(f"login needed: {message.removesuffix('.')}; {hint}, then try again", agent=agent)
        self.login = login


class AgentProtocolError(SpawnError):
    """The agent answered, but not in a way that the protocol allows, or with an error."""


class WorkspaceError(RelaykitError):
    """A workspace could not be prepared or removed."""


class NotARepository(WorkspaceError):
    """The project's directory is not inside a git repository."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path!r} is not inside a git repository, so it can have no worktrees: run `git init` and commit there, "
            'or set `workspace = "directory"` in [relay]'
        )
        self.path = path


# ---------------------------------------------------------------- settings and plugins


class SettingsError(RelaykitError, ValueError):
    """A setting is unknown, missing or of the wrong kind.

    :param key: dotted, as ``relay.storage``; empty where the file as a whole is meant.
    :param origin: the file or the environment variable that says it.
    """

    def __init__(self, message: str, *, key: str = "", origin: str = "") -> None:
        super().__init__(": ".join(part for part in (origin, key, message) if part))
        self.key = key
        self.origin = origin


class PluginError(RelaykitError):
    """A plugin is at fault, and this is its name."""

    def __init__(self, message: str, *, plugin: str) -> None:
        super().__init__(f"plugin {plugin!r}: {message}")
        self.plugin = plugin


class PluginLoadError(PluginError):
    """The plugin could not be imported, or one of its register hooks failed."""


class IncompatiblePlugin(PluginError):
    """The plugin needs a newer version of the hooks than there is."""

    def __init__(self, plugin: str, *, needs: int, offered: int) -> None:
        super().__init__(
            f"it needs version {needs} of the hooks, and this relaykit has version {offered}: "
            "upgrade relaykit, or install an older version of the plugin",
            plugin=plugin,
        )
        self.needs = needs
        self.offered = offered


class DuplicatePlugin(PluginError):
    """Two installed distributions use one entry-point name."""

    def __init__(self, plugin: str, distributions: Iterable[str]) -> None:
        self.distributions = tuple(distributions)
        both = " and ".join(repr(name) for name in self.distributions)
        super().__init__(f"the name is claimed by {both}: uninstall one of them", plugin=plugin)


class InvalidHook(PluginError):
    """A hook implementation has no such hook to implement, or has the wrong colour or arguments."""

    def __init__(self, message: str, *, plugin: str, hook: str) -> None:
        super().__init__(f"hook {hook!r}: {message}", plugin=plugin)
        self.hook = hook


class UnknownImplementation(PluginError, LookupError):
    """Settings choose something by a name that no installed plugin registers."""

    def __init__(self, kind: str, name: str, installed: Iterable[str], *, note: str = "") -> None:
        self.kind = kind
        self.name = name
        self.installed = tuple(sorted(installed))
        RelaykitError.__init__(
            self,
            f"there is no {kind} {name!r}{did_you_mean(name, self.installed)}; "
            f"installed: {', '.join(self.installed) or 'none'}{note}",
        )
        self.plugin = name


class Leaked(RelaykitError, RuntimeError):
    """A call of a plugin's left something open on the event loop, or let out a cancellation that was its own."""


class Refused(RelaykitError):
    """A policy hook said no, failed, or did not answer in time: all three refuse.

    A plugin's own ``relaykit_check_*`` raises ``Refused("why")``; the relay fills in who and where.
    """

    def __init__(self, reason: str, *, plugin: str = "", hook: str = "") -> None:
        super().__init__(f"refused by plugin {plugin!r}: {reason}" if plugin else reason)
        self.reason = reason
        self.plugin = plugin
        self.hook = hook


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known name nearest to `name`, or nothing."""
    from difflib import get_close_matches  # most programs run without an error

    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
