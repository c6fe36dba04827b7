"""The hooks that a plugin may implement. Every argument is optional to take: name the ones you want.

::

    from relaykit.hooks import hookimpl

    @hookimpl
    async def relaykit_on_transition(transition):
        print(transition.after.id, transition.after.state)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

# Imported for types alone: finding plugins and listing their commands loads no event loop and no session.
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from relaykit.agent.launcher import AgentSpec, LauncherFactory
    from relaykit.agent.workspace import Workspace
    from relaykit.hooks.events import (
        AccessRefused,
        CallMade,
        CleanupFailed,
        ClientAttached,
        ClientDetached,
        EntriesRecorded,
        FellAsleep,
        ModeRequest,
        PermissionRequest,
        PromptRequest,
        QuestionAnswered,
        QuestionAsked,
        SessionRequest,
        TurnEnded,
        TurnStarted,
        WokeUp,
    )
    from relaykit.hooks.registration import (
        Check,
        Command,
        MessageType,
        PluginContext,
        Route,
        Service,
        StorageFactory,
    )
    from relaykit.meter import Meter
    from relaykit.session.cleaner import Cleaner
    from relaykit.session.state_machine import Transition

hookspec = pluggy.HookspecMarker("relaykit")
hookimpl = pluggy.HookimplMarker("relaykit")

# mypy: disable-error-code="empty-body"

# ---------------------------------------------------------------- registration
# Plain functions, called once while the relay starts. What they raise is an error that names the plugin.


@hookspec
def relaykit_register_settings() -> type:
    """Declare the frozen dataclass of the plugin's own ``[plugins.NAME]`` table.

    Example: ``return SqliteSettings``, with its fields made by `relaykit.settings.setting`.

    A field of the type ``tuple[Rule, ...]``, where Rule is such a dataclass too, is a list of tables:
    ``[[plugins.NAME.FIELD]]``. A field of the type `relaykit.settings.Where` is told where its table is written.
    """


@hookspec
def relaykit_register_commands() -> Sequence[Command]:
    """Add subcommands to ``relaykit``. Called without settings, so that ``--help`` always works.

    Example: ``return [Command(name="backup", help="copy the database", run=backup)]``

    One that has to start at once is announced by an entry point as well: see `relaykit.commands.announced`.
    """


@hookspec
def relaykit_register_agents(context: PluginContext) -> Mapping[str, AgentSpec]:
    """Offer agents that are known without settings; ``[agents.NAME]`` overrides one.

    The first is the agent of sessions that name none, where settings have no agent at all.

    Example: ``return {"echo": AgentSpec(name="echo", command=(sys.executable, "-m", "my_echo"))}``
    """


@hookspec
def relaykit_register_storages(context: PluginContext) -> Mapping[str, StorageFactory]:
    """Offer storages, chosen by name in ``[relay] storage``.

    Example: ``return {"sqlite": lambda: open_sqlite(context.settings)}``
    """


@hookspec
def relaykit_register_workspaces(context: PluginContext) -> Mapping[str, Workspace]:
    """Offer workspaces, chosen by name in ``[relay] workspace``.

    Example: ``return {"worktree": WorktreeWorkspace(context.projects)}``
    """


@hookspec
def relaykit_register_launchers(context: PluginContext) -> Mapping[str, LauncherFactory]:
    """Offer launchers, chosen by name in ``[agents.NAME] launcher``.

    Example: ``return {"acp": lambda: open_acp_launcher(context.settings)}``
    """


@hookspec
def relaykit_register_cleaners(context: PluginContext) -> Sequence[Cleaner]:
    """Offer cleaners. Those named as the chosen launchers and workspace run; ``[relay] cleaners`` adds others.

    Example: ``return [ArchiveCleaner(context.settings.bucket)]``
    """


@hookspec
def relaykit_register_services(context: PluginContext) -> Sequence[Service]:
    """Add services that live as long as the relay.

    Example: ``return [Service(name="gateway", open=serve_gateway, listens=True)]``
    """


@hookspec
def relaykit_register_routes(context: PluginContext) -> Sequence[Route]:
    """Add ASGI applications for a gateway to mount.

    Example: ``return [Route(path="/metrics", app=metrics_app)]``
    """


@hookspec
def relaykit_register_messages(context: PluginContext) -> Sequence[MessageType]:
    """Add message types to the relay protocol, or take over built-in ones.

    Example: ``return [MessageType(name="ping", handle=answer_ping)]``
    """


@hookspec
def relaykit_register_meter(context: PluginContext) -> Meter:
    """Provide a Meter: every figure goes to each one that plugins provide.

    Example: ``return PrometheusMeter(registry)``
    """


@hookspec
def relaykit_register_checks(context: PluginContext) -> Sequence[Check]:
    """Add to what ``relaykit doctor`` looks at. No relay is opened for it.

    Example: ``return [Check(name="database", look=look_at_database)]``
    """


@hookspec
def relaykit_register_interests(context: PluginContext) -> Sequence[str]:
    """Say which of the plugin's own `on` hooks are called, where settings say what it is for; else all are.

    Those that are not called cost nothing. Its `check` hooks always are.

    Example: ``return ["relaykit_on_turn_ended"] if context.settings.url else []``
    """


# ---------------------------------------------------------------- observers
# Coroutine functions. Each has a deadline; what it raises is logged and counted, and changes nothing.


@hookspec
async def relaykit_on_transition(transition: Transition) -> None:
    """Hear that a session changed its state; in version order, one at a time per session.

    Example: ``if transition.after.state is SessionState.ACTIVE: await page("ready")``
    """


@hookspec
async def relaykit_on_cleanup_failed(failure: CleanupFailed) -> None:
    """Hear that a cleaner failed; the session becomes CLEANED all the same.

    Example: ``await page(f"{failure.result.cleaner}: {failure.result.detail}")``
    """


@hookspec
async def relaykit_on_client_attached(client: ClientAttached) -> None:
    """Hear that a client began to follow a session.

    Example: ``present[client.session_id].add(client.client_id)``
    """


@hookspec
async def relaykit_on_client_detached(client: ClientDetached) -> None:
    """Hear that a client stopped following a session.

    Example: ``present[client.session_id].discard(client.client_id)``
    """


@hookspec
async def relaykit_on_access_refused(refusal: AccessRefused) -> None:
    """Hear that a gateway did not let somebody in. The answer waits for this.

    Example: ``refused[refusal.address] += 1``
    """


@hookspec
async def relaykit_on_turn_started(turn: TurnStarted) -> None:
    """Hear that a prompt went to the agent.

    Example: ``await set_status(turn.session.agent_id, "working")``
    """


@hookspec
async def relaykit_on_turn_ended(turn: TurnEnded) -> None:
    """Hear that the agent's turn is over, and how.

    Example: ``await page(f"{turn.session.agent_id}: {turn.outcome} after {turn.seconds:.0f} s")``
    """


@hookspec
async def relaykit_on_call(call: CallMade) -> None:
    """Hear that a client asked something of the agent besides a prompt: a mode, a model, an option.

    Example: ``audit.write(call.by, call.call.method)``
    """


@hookspec
async def relaykit_on_asleep(sleep: FellAsleep) -> None:
    """Hear that a session's agent was stopped until somebody wants it, or has ended by itself. It stays ACTIVE.

    Example: ``await set_status(sleep.session.agent_id, "asleep")``
    """


@hookspec
async def relaykit_on_awake(waking: WokeUp) -> None:
    """Hear that a session's agent was started again where it was.

    Example: ``await set_status(waking.session.agent_id, "awake")``
    """


@hookspec
async def relaykit_on_question_asked(question: QuestionAsked) -> None:
    """Hear that the agent asks something that somebody must answer.

    Example: ``await page(f"{question.session.agent_id} needs you")``
    """


@hookspec
async def relaykit_on_question_answered(question: QuestionAnswered) -> None:
    """Hear who or what answered a question, and how.

    Example: ``audit.write(question.by, question.outcome)``
    """


@hookspec
async def relaykit_on_entries(batch: EntriesRecorded) -> None:
    """Hear what was said, in batches. A slow implementation gets larger batches and delays nobody.

    Example: ``for entry in batch.entries: index(batch.session.id, entry)``
    """


# ---------------------------------------------------------------- policy
# Coroutine functions, asked before. They fail closed: raising `Refused("why")`, any other error, or an
# overrun of the deadline refuses, and so does returning anything. Returning None allows.


@hookspec
async def relaykit_check_session(request: SessionRequest) -> None:
    """Refuse a new session, or let it be.

    Example: ``if request.project not in allowed: raise Refused("not this project")``
    """


@hookspec
async def relaykit_check_prompt(request: PromptRequest) -> None:
    """Refuse a prompt, or let it pass.

    Example: ``if b"BEGIN PRIVATE KEY" in request.body: raise Refused("that is a key")``
    """


@hookspec
async def relaykit_check_permission(request: PermissionRequest) -> None:
    """Decline the agent's request for permission, or let people decide.

    Example: ``if b'"kind":"delete"' in request.request.body: raise Refused("nothing is deleted here")``
    """


@hookspec
async def relaykit_check_mode(request: ModeRequest) -> None:
    """Refuse a change of the agent's mode or options, or let it pass.

    Example: ``if b"bypassPermissions" in request.call.body: raise Refused("not on this machine")``
    """
