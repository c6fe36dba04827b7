"""What each kind of client may do with each kind of session: the relay decides, whoever asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from relaykit.conversation import Kind
from relaykit.errors import NotAllowed, QuestionClosed, SessionNotFound, UnknownProject
from relaykit.hooks import hookimpl
from relaykit.hooks.events import ClientAttached, ClientDetached
from relaykit.relay import Relay
from relaykit.relay.access import EVERYTHING, FULL, Access, Role
from relaykit.relay.restricted import RestrictedRelay
from relaykit.session import Session, SessionFilter, SessionState
from support.relays import Client, active_session, ended, following, permission, prompt, running_relay

pytestmark = pytest.mark.anyio

OTHER_PROJECT = (
    '[projects.default]\npath = "."\n[projects.other]\npath = "."\n[relay]\ndefault_project = "default"\n'
)


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    async with running_relay(tmp_path, toml=OTHER_PROJECT) as relay:
        yield relay


@dataclass
class World:
    """A session of ``local`` in the project ``default``, with a turn that asks something."""

    relay: Relay
    client: Client
    question: str

    @property
    def id(self) -> str:
        return self.client.session_id


@pytest.fixture
async def world(relay: Relay) -> AsyncIterator[World]:
    async with active_session(relay) as client:
        await client.say("/ask", "t0")
        question = await client.until_asked()
        yield World(relay, client, question.frame.ref)


Method = Callable[[RestrictedRelay, World], Awaitable[object]]


async def prompts(relay: RestrictedRelay, world: World) -> None:
    await relay.prompt(world.id, prompt("hello"), client_id="c9", turn="t9")


async def cancels(relay: RestrictedRelay, world: World) -> None:
    await relay.cancel(world.id)


async def takes_back(relay: RestrictedRelay, world: World) -> None:
    await relay.withdraw(world.id, "nothing that waits")


async def calls(relay: RestrictedRelay, world: World) -> None:
    await relay.call(world.id, "session/set_mode", b'{"modeId":"code"}', client_id="c9", ref="r9")


async def cancels_a_call(relay: RestrictedRelay, world: World) -> None:
    await relay.cancel_call(world.id, "r9")


async def answers(relay: RestrictedRelay, world: World) -> None:
    await relay.answer(world.id, world.question, permission("yes"), client_id="c9")


async def stops(relay: RestrictedRelay, world: World) -> None:
    await relay.stop(world.id, "enough")


async def requires(relay: RestrictedRelay, world: World) -> None:
    await relay.require(world.id)


async def finds(relay: RestrictedRelay, world: World) -> None:
    await relay.find(world.id)


async def reads(relay: RestrictedRelay, world: World) -> None:
    assert await relay.transcript(world.id)


async def looks(relay: RestrictedRelay, world: World) -> None:
    assert (await relay.live(world.id)).id == world.id


async def attaches(relay: RestrictedRelay, world: World) -> None:
    async with relay.attach(world.id, client_id="c9", protocol="ws") as cursor:
        assert (await cursor.next()).entries


async def gets(relay: RestrictedRelay, world: World) -> None:
    if await relay.get(world.id) is None:
        raise SessionNotFound(world.id)


async def lists(relay: RestrictedRelay, world: World) -> None:
    listed = [session.id for session in await relay.list(SessionFilter())]
    assert listed in ([world.id], [])
    if not listed:
        raise SessionNotFound(world.id)


WATCHING: list[Method] = [requires, finds, reads, looks, attaches, gets, lists]
CONTROLLING: list[Method] = [
    prompts,
    cancels,
    takes_back,
    calls,
    cancels_a_call,
    answers,
    stops,
]

NOBODYS = frozenset({"nobody"})
SEEING: dict[str, Callable[[str], Access]] = {
    "the owner": lambda _: FULL,
    "who sees everybody's": lambda _: Access(owner="ann", all_owners=True),
    "for its project": lambda _: Access(projects=frozenset({"default"})),
    "for its project among others": lambda _: Access(projects=frozenset({"default", "other"})),
    "for this session": lambda id_: Access(sessions=frozenset({id_})),
    "for this session among others": lambda id_: Access(sessions=frozenset({id_, "nobody"})),
    "for both": lambda id_: Access(projects=frozenset({"default"}), sessions=frozenset({id_})),
}
BLIND: dict[str, Callable[[str], Access]] = {
    "another owner": lambda _: Access(owner="ann"),
    "for another project": lambda _: Access(projects=frozenset({"other"})),
    "for two other projects": lambda _: Access(projects=frozenset({"other", "third"})),
    "for no project": lambda _: Access(projects=frozenset()),
    "for another session": lambda _: Access(sessions=NOBODYS),
    "for no session": lambda _: Access(sessions=frozenset()),
    "another owner, for this session": lambda id_: Access(owner="ann", sessions=frozenset({id_})),
    "for this session, of another project": lambda id_: Access(
        projects=frozenset({"other"}), sessions=frozenset({id_})
    ),
}


@pytest.mark.parametrize("method", [*WATCHING, *CONTROLLING])
@pytest.mark.parametrize("role", list(Role))
async def test_every_method_by_role_and_by_what_is_seen(world: World, method: Method, role: Role) -> None:
    def as_client(make: Callable[[str], Access]) -> RestrictedRelay:
        return world.relay.restricted_to(replace(make(world.id), role=role))

    before = await world.relay.transcript(world.id)
    for make in BLIND.values():
        with pytest.raises(SessionNotFound):
            await method(as_client(make), world)
    if role is Role.OBSERVER and method in CONTROLLING:
        for make in SEEING.values():
            with pytest.raises(NotAllowed, match="is not allowed: it takes a controller"):
                await method(as_client(make), world)
    elif method in WATCHING:
        for make in SEEING.values():
            await method(as_client(make), world)
    if role is Role.OBSERVER or method in WATCHING:  # nothing has come of it
        assert await world.relay.transcript(world.id) == before
        assert [question.request.ref for question in world.relay.live(world.id).questions] == [world.question]


@pytest.mark.parametrize("method", CONTROLLING)
@pytest.mark.parametrize("make", SEEING.values(), ids=list(SEEING))
async def test_a_controller_may(world: World, method: Method, make: Callable[[str], Access]) -> None:
    relay = world.relay.restricted_to(make(world.id))
    await method(relay, world)
    if method is answers:
        with pytest.raises(QuestionClosed):
            await method(relay, world)
    if method is calls:
        await world.client.until(lambda entry: entry.frame.kind is Kind.RESULT and entry.frame.ref == "r9")
    if method is prompts:
        await world.client.answer(world.question)
        await world.client.until_turn_end("t9")


@pytest.mark.parametrize(
    ("access", "error"),
    [
        pytest.param(Access(), None, id="all"),
        pytest.param(Access(owner="ann"), None, id="an owner"),
        pytest.param(Access(projects=frozenset({"default"})), None, id="the project"),
        pytest.param(Access(projects=frozenset({"default", "other"})), None, id="two projects"),
        pytest.param(Access(projects=frozenset({"other"})), UnknownProject, id="another project"),
        pytest.param(Access(projects=frozenset()), UnknownProject, id="no project"),
        pytest.param(Access(sessions=NOBODYS), NotAllowed, id="sessions"),
        pytest.param(Access(role=Role.OBSERVER), NotAllowed, id="an observer"),
        pytest.param(Access(owner="ann", role=Role.OBSERVER), NotAllowed, id="an owner's observer"),
    ],
)
async def test_who_may_create(relay: Relay, access: Access, error: type[Exception] | None) -> None:
    client = relay.restricted_to(access)
    if error is None:
        session = await client.create("auth", project="default")
        assert (session.owner, session.project) == (access.owner, "default")
        assert await client.get(session.id) is not None
    else:
        with pytest.raises(error):
            await client.create("auth", project="default")
        assert await relay.list(SessionFilter()) == []


async def test_the_default_project_is_one_that_is_seen(relay: Relay) -> None:
    one = relay.restricted_to(Access(projects=frozenset({"other"})))
    assert one.project() == "other"
    assert list(one.projects) == ["other"]
    both = relay.restricted_to(Access(projects=frozenset({"other", "default"})))
    assert both.project() == "default"
    gone = relay.restricted_to(Access(projects=frozenset({"gone"})))
    for wanted in ("", "gone", "default"):
        with pytest.raises(UnknownProject) as caught:
            gone.project(wanted)
        assert caught.value.known == ()
    with pytest.raises(UnknownProject) as caught:
        one.project("default")
    assert caught.value.known == ("other",)


async def make_sessions(relay: Relay) -> dict[str, Session]:
    """Return sessions of two owners in two projects, by owner, project and role."""
    return {
        f"{owner} {project} {role}": await relay.create(role, project=project, owner=owner)
        for owner in ("local", "ann")
        for project in ("default", "other")
        for role in ("a", "b")
    }


async def test_lists_in_pages(relay: Relay) -> None:
    made = await make_sessions(relay)
    by_id = {session.id: name for name, session in made.items()}
    some = frozenset({made["local default a"].id, made["ann other b"].id, "nobody"})
    expected = {
        Access(): [name for name in made if name.startswith("local")],
        Access(owner="ann"): [name for name in made if name.startswith("ann")],
        Access(owner="eve"): [],
        Access(owner="eve", all_owners=True): [*made],
        Access(all_owners=True, projects=frozenset({"other"})): [name for name in made if " other " in name],
        Access(projects=frozenset({"other"})): ["local other a", "local other b"],
        Access(projects=frozenset({"other", "default", "x"})): [n for n in made if n.startswith("local")],
        Access(sessions=some): ["local default a"],
        Access(owner="ann", sessions=some): ["ann other b"],
        Access(projects=frozenset({"other"}), sessions=some): [],
    }

    async def listed(client: RestrictedRelay, where: SessionFilter, limit: int) -> list[str]:
        found: list[Session] = []
        while page := await client.list(where, after=found[-1].id if found else "", limit=limit):
            found += page
        return sorted(by_id[session.id] for session in found)

    async def listed_as_ended(client: RestrictedRelay, where: SessionFilter, limit: int) -> list[str]:
        found: list[Session] = []
        while page := await client.ended(where, skip=len(found), limit=limit):
            found += page
        times = [session.ended_at for session in found if session.ended_at is not None]
        assert times == sorted(times, reverse=True)
        return sorted(by_id[session.id] for session in found)

    async def check(how: Callable[[RestrictedRelay, SessionFilter, int], Awaitable[list[str]]]) -> None:
        for access, names in expected.items():
            client = relay.restricted_to(access)
            for limit in (1, 3, 100):
                assert await how(client, SessionFilter(), limit) == sorted(names), access
                # What a client asks for widens nothing.
                anns = [name for name in names if name.startswith("ann") or not access.all_owners]
                assert await how(client, SessionFilter(owner="ann"), limit) == sorted(anns), access
                other = [name for name in names if " other " in name]
                assert await how(client, SessionFilter(project="other"), limit) == sorted(other), access

    await check(listed)
    for session in made.values():
        await relay.stop(session.id, "done")
        await ended(relay, session.id)
    await check(listed_as_ended)
    future = relay.clock.now() - timedelta(days=1)
    one = relay.restricted_to(Access(sessions=some))
    assert await one.ended(SessionFilter(), before=future) == []


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda _: Access(), None),
        (lambda id_: Access(sessions=frozenset({id_})), None),
        (lambda _: Access(role=Role.OBSERVER), NotAllowed),
        (lambda _: Access(owner="ann"), SessionNotFound),
        (lambda _: Access(owner="ann", role=Role.OBSERVER), SessionNotFound),
        (lambda _: Access(projects=frozenset({"other"})), SessionNotFound),
    ],
)
async def test_who_may_resume_what_has_ended(
    relay: Relay, make: Callable[[str], Access], error: type[Exception] | None
) -> None:
    async with active_session(relay) as client:
        await relay.stop(client.session_id, "done")
    await ended(relay, client.session_id)
    mine = relay.restricted_to(make(client.session_id))
    if error is None:
        assert (await mine.revive(client.session_id)).id == client.session_id
        assert await mine.transcript(client.session_id)
        return
    with pytest.raises(error):
        await mine.revive(client.session_id)
    assert await relay.get(client.session_id) is None
    if error is SessionNotFound:
        for method in (mine.find, mine.transcript):
            with pytest.raises(SessionNotFound):
                await method(client.session_id)


class Roles:
    """A plugin that hears who comes and goes."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.sessions: list[Session] = []

    @hookimpl
    async def relaykit_on_client_attached(self, client: ClientAttached) -> None:
        self.heard.append(("attached", client.client_id, client.role))
        self.sessions.append(client.session)

    @hookimpl
    async def relaykit_on_client_detached(self, client: ClientDetached) -> None:
        self.heard.append(("detached", client.client_id, client.role))
        self.sessions.append(client.session)


async def test_observers_are_counted_and_told_of(tmp_path: Path) -> None:
    roles = Roles()
    async with running_relay(tmp_path, plugins={"roles": roles}) as relay, active_session(relay) as client:
        watching = relay.restricted_to(Access(role=Role.OBSERVER))
        id_ = client.session_id
        async with watching.attach(id_, client_id="w1", protocol="ws"):
            async with watching.attach(id_, client_id="w2", protocol="ws"):
                assert (relay.clients(id_), relay.observers(id_)) == (3, 2)
            assert (relay.clients(id_), relay.observers(id_)) == (2, 1)
            async with following(relay, id_, client_id="c2"):
                assert (relay.clients(id_), relay.observers(id_)) == (3, 1)
        assert (relay.clients(id_), relay.observers(id_)) == (1, 0)
        assert relay.observers("nobody") == 0
        await relay.stop(id_, "done")
        await client.until_the_end()
        await ended(relay, id_)
    assert {(what, id_) for what, id_, role in roles.heard if role == "observer"} == {
        ("attached", "w1"),
        ("attached", "w2"),
        ("detached", "w1"),
        ("detached", "w2"),
    }
    assert ("attached", "c1", "controller") in roles.heard
    assert {(session.id, session.agent_id) for session in roles.sessions} == {(id_, "auth")}
    assert roles.sessions[roles.heard.index(("attached", "w1", "observer"))].worktree_dir
    # Who leaves behind its end is told of with the session as it ended.
    assert roles.heard[-1] == ("detached", "c1", "controller")
    assert (roles.sessions[-1].state, roles.sessions[-1].reason) == (SessionState.CLEANED, "done")


def test_what_is_narrow() -> None:
    assert not FULL.is_narrow
    assert FULL.is_everything
    assert not EVERYTHING.is_narrow
    assert EVERYTHING.is_everything
    assert not Access(owner="ann").is_narrow
    assert not Access(owner="ann").is_everything
    for access in (
        Access(role=Role.OBSERVER),
        Access(projects=frozenset({"a"})),
        Access(sessions=frozenset()),
    ):
        assert access.is_narrow
        assert not access.is_everything
