from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import EntryPoint, version
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import parser as openmetrics

from relaykit.errors import DuplicateRole, PluginLoadError, StoreError, TransitionError
from relaykit.hooks import hookimpl
from relaykit.hooks.loader import load_plugins
from relaykit.meter import (
    AGENT_SHUTDOWN,
    FIGURES,
    HOOK_FAILURES,
    HOOK_SECONDS,
    MESSAGES,
    SESSION_DURATION,
    SESSION_MESSAGES,
    Figure,
    FigureKind,
)
from relaykit.session import Activity, MemoryStore, Outcome, Session, SessionState, Transition
from relaykit.testing import FakeClock, FakeConnection
from relaykit_prometheus import PrometheusPlugin
from relaykit_prometheus.meter import buckets_of, name_of
from support.managers import session_in
from support.scraping import Measured, Series, get, open_measured, series, settings_from
from support.session_stores import StagedStore

pytestmark = pytest.mark.anyio

ON_TRANSITION = "relaykit_on_transition"


class Failing:
    """A plugin that fails whenever a session becomes ACTIVE."""

    @hookimpl
    async def relaykit_on_transition(self, transition: Transition) -> None:
        if transition.after.state is SessionState.ACTIVE:
            raise RuntimeError("as it should")


class Slow:
    """A plugin that never answers."""

    @hookimpl
    async def relaykit_on_transition(self) -> None:
        await anyio.sleep_forever()


def sessions(**counts: int) -> dict[Series, float]:
    return {series("relaykit_sessions", state=state): counts.get(state, 0) for state in SessionState}


def transitions(done: Sequence[int], illegal: Sequence[int], failed: Sequence[int]) -> dict[Series, float]:
    events = ("CREATE", "SPAWN", "ACTIVATE", "TERMINATE", "CLEAN")
    return {
        series("relaykit_session_transitions_total", event=event, outcome=outcome): count
        for outcome, counts in (("done", done), ("illegal", illegal), ("failed", failed))
        for event, count in zip(events, counts, strict=True)
    }


def cleanups(cleaner: str, **outcomes: int) -> dict[Series, float]:
    return {
        series("relaykit_cleanups_total", cleaner=cleaner, outcome=outcome): outcomes.get(outcome, 0)
        for outcome in Outcome
    }


def histogram(
    name: str, bounds: Sequence[float], values: Sequence[float], **labels: str
) -> dict[Series, float]:
    expected: dict[Series, float] = {
        series(f"{name}_bucket", le=str(float(bound)), **labels): sum(value <= bound for value in values)
        for bound in bounds
    }
    expected[series(f"{name}_bucket", le="+Inf", **labels)] = len(values)
    expected[series(f"{name}_sum", **labels)] = sum(values)
    expected[series(f"{name}_count", **labels)] = len(values)
    return expected


def zero(figure: Figure, **labels: str) -> dict[Series, float]:
    if figure.kind is FigureKind.HISTOGRAM:
        return histogram(name_of(figure), buckets_of(figure), [], **labels)
    return {series(name_of(figure), **labels): 0}


def untouched(*listeners: str) -> dict[Series, float]:
    """Return every series that there is at the start: with these plugins on transitions, and no agents."""
    expected = {
        **cleanups("close_agent"),
        **cleanups("close_connection"),
        series("relaykit_build_info", version=version("relaykit")): 1,
    }
    for figure in FIGURES:
        for values in product(*figure.labels.values()):
            expected |= zero(figure, **dict(zip(figure.labels, values, strict=True)))
    for plugin in listeners:
        expected |= zero(HOOK_SECONDS, plugin=plugin, hook=ON_TRANSITION)
        for failure in HOOK_FAILURES.labels["failure"]:
            expected |= zero(HOOK_FAILURES, plugin=plugin, hook=ON_TRANSITION, failure=failure)
    return expected


async def work(measured: Measured, store: StagedStore) -> None:
    manager, clock = measured.manager, measured.clock

    whole = await session_in(SessionState.ACTIVE, manager, agent_id="whole")
    measured.meter.count(MESSAGES, direction="to_agent")
    measured.meter.count(MESSAGES, 5, direction="from_agent")
    measured.meter.count(MESSAGES, direction="to_agent")
    await manager.increment_message_count(whole.id, by=4)
    with pytest.raises(DuplicateRole):
        await manager.create("whole", FakeConnection())
    with pytest.raises(TransitionError):
        await manager.begin_spawn(whole.id)
    with pytest.raises(TransitionError):
        await manager.attach_agent(whole.id, "/elsewhere", FakeConnection())
    with pytest.raises(TransitionError):
        await manager.complete_cleanup(whole.id)
    clock.advance(42)
    await manager.mark_terminating(whole.id, "done")
    await manager.mark_terminating(whole.id, "done twice")
    await manager.complete_cleanup(whole.id)
    await manager.complete_cleanup(whole.id)

    cancelled = await session_in(SessionState.CREATED, manager, agent_id="cancelled")
    clock.advance(2 * 3600)
    await manager.mark_terminating(cancelled.id, "changed their mind")
    await manager.complete_cleanup(cancelled.id)

    unspawned = await session_in(SessionState.SPAWNING, manager, agent_id="unspawned")
    await manager.mark_terminating(unspawned.id, "no such program")

    await session_in(SessionState.ACTIVE, manager, agent_id="active-1")
    await session_in(SessionState.ACTIVE, manager, agent_id="active-2")
    await session_in(SessionState.SPAWNING, manager, agent_id="spawning")

    unsaved = await session_in(SessionState.CREATED, manager, agent_id="unsaved")
    store.fail("save", StoreError("the disk is full"))
    with pytest.raises(StoreError):
        await manager.begin_spawn(unsaved.id)
    store.fail("create", StoreError("the disk is full"))
    with pytest.raises(StoreError):
        await manager.create("uncreated", FakeConnection())


async def test_every_series_has_its_value_before_anything_happens(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with open_measured({"prometheus": PrometheusPlugin(CollectorRegistry())}, tmp_path) as measured:
            assert await measured.scrape() == untouched()


async def test_a_known_workload_is_shown_exactly(tmp_path: Path) -> None:
    plugins = {"prometheus": PrometheusPlugin(CollectorRegistry()), "failing": Failing()}
    store = StagedStore(MemoryStore())
    with anyio.fail_after(30):
        async with open_measured(plugins, tmp_path, store=store) as measured:
            await work(measured, store)
            scraped = await measured.scrape()

    told = 7 + 5 + 3 + 3 + 2  # one call of each hook for each transition that was done
    assert scraped == {
        **untouched("failing"),
        **sessions(CREATED=1, SPAWNING=1, ACTIVE=2, TERMINATING=1),
        **transitions(done=(7, 5, 3, 3, 2), illegal=(1, 1, 1, 0, 1), failed=(1, 1, 0, 0, 0)),
        series("relaykit_session_terminations_total", cause="REQUESTED"): 3,
        **histogram("relaykit_session_duration_seconds", SESSION_DURATION.buckets, [42, 7200]),
        **histogram("relaykit_session_messages", SESSION_MESSAGES.buckets, [4, 0]),
        **cleanups("close_agent", DONE=1, SKIPPED=1),
        **cleanups("close_connection", DONE=2),
        **histogram("relaykit_agent_shutdown_seconds", AGENT_SHUTDOWN.buckets, [0], agent="agent"),
        series("relaykit_messages_total", direction="to_agent"): 2,
        series("relaykit_messages_total", direction="from_agent"): 5,
        series("relaykit_hook_failures_total", plugin="failing", hook=ON_TRANSITION, failure="error"): 3,
        **histogram(
            "relaykit_hook_seconds", HOOK_SECONDS.buckets, [0.0] * told, plugin="failing", hook=ON_TRANSITION
        ),  # by the fake clock
    }


async def test_all_sessions_have_left_the_gauge_once_the_manager_is_closed(tmp_path: Path) -> None:
    store = StagedStore(MemoryStore())
    with anyio.fail_after(30):
        async with open_measured(
            {"prometheus": PrometheusPlugin(CollectorRegistry())}, tmp_path, store=store
        ) as measured:
            await work(measured, store)
        scraped = await measured.scrape()
    assert sessions().items() <= scraped.items()
    assert scraped[series("relaykit_session_duration_seconds_count")] == 7


async def test_a_plugin_that_is_switched_off_is_seen(tmp_path: Path) -> None:
    plugins = {"prometheus": PrometheusPlugin(CollectorRegistry()), "slow": Slow()}
    with anyio.fail_after(30):
        async with open_measured(plugins, tmp_path, hook_timeout=0.05) as measured:
            for number in range(4):
                await session_in(SessionState.CREATED, measured.manager, agent_id=f"role-{number}")
            scraped = await measured.scrape()
    failures = {
        failure: scraped[
            series("relaykit_hook_failures_total", plugin="slow", hook=ON_TRANSITION, failure=failure)
        ]
        for failure in ("overrun", "switched_off")
    }
    assert failures == {"overrun": 3, "switched_off": 1}


async def test_the_number_of_series_does_not_depend_on_the_sessions(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with open_measured({"prometheus": PrometheusPlugin(CollectorRegistry())}, tmp_path) as measured:
            first = await session_in(SessionState.ACTIVE, measured.manager, agent_id="first")
            after_one = await measured.scrape()
            for number in range(20):
                await session_in(SessionState.ACTIVE, measured.manager, agent_id=f"role-{number}")
            after_many = await measured.scrape()
    assert after_many.keys() == after_one.keys()
    values = {value for _, labels in after_many for _, value in labels}
    assert not values & {first.id, first.agent_id, first.owner, first.project}
    assert after_many[series("relaykit_sessions", state="ACTIVE")] == 21


async def test_a_session_that_the_store_held_counts_from_its_first_transition(tmp_path: Path) -> None:
    store, created_at = MemoryStore(), FakeClock().now() + timedelta(hours=1)  # and the time was set back
    session = Session(
        id="found",
        agent_id="auth",
        agent="echo",
        owner="local",
        project="default",
        node="local",
        created_at=created_at,
        activity=Activity(created_at),
        state=SessionState.ACTIVE,
    )
    await store.create(session)
    with anyio.fail_after(30):
        async with open_measured(
            {"prometheus": PrometheusPlugin(CollectorRegistry())}, tmp_path, store=store
        ) as measured:
            await measured.manager.mark_terminating(session.id, "done")
            terminating = await measured.scrape()
            await measured.manager.complete_cleanup(session.id)
            cleaned = await measured.scrape()
    assert sessions(TERMINATING=1).items() <= terminating.items()
    duration = histogram("relaykit_session_duration_seconds", SESSION_DURATION.buckets, [0])
    assert (sessions() | duration).items() <= cleaned.items()


async def test_two_relays_in_one_process_share_nothing(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with (
            open_measured({"prometheus": PrometheusPlugin()}, tmp_path) as busy,
            open_measured({"prometheus": PrometheusPlugin()}, tmp_path) as idle,
        ):
            await session_in(SessionState.ACTIVE, busy.manager)
            busy.meter.count(MESSAGES, direction="to_agent")
            of_busy, of_idle = await busy.scrape(), await idle.scrape()
    assert of_busy[series("relaykit_sessions", state="ACTIVE")] == 1
    assert untouched().items() <= of_idle.items()


def test_each_load_of_the_entry_point_is_a_plugin_of_its_own(tmp_path: Path) -> None:
    entry_point = EntryPoint("prometheus", "relaykit_prometheus:PrometheusPlugin", "relaykit")
    functions = [
        found.function
        for _ in range(2)
        for found in load_plugins(settings_from(tmp_path), entry_points=[entry_point]).implementations(
            "relaykit_register_meter"
        )
    ]
    owners = [getattr(function, "__self__", None) for function in functions]
    assert [type(owner) for owner in owners] == [PrometheusPlugin, PrometheusPlugin]
    assert owners[0] is not owners[1]


async def test_a_registry_of_its_own_also_shows_process_and_interpreter(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with open_measured({"prometheus": PrometheusPlugin()}, tmp_path) as measured:
            names = {family.name for family in await measured.families()}
    assert "python_info" in names
    if sys.platform == "linux":
        assert "process_open_fds" in names


async def test_one_registry_cannot_serve_two_relays(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with open_measured({"prometheus": PrometheusPlugin(registry)}, tmp_path):
        with pytest.raises(PluginLoadError, match=r"'again'.*Duplicated") as caught:
            async with open_measured({"again": PrometheusPlugin(registry)}, tmp_path):
                pytest.fail("it opened")
    assert caught.value.plugin == "again"


@pytest.mark.parametrize(
    ("toml", "public"), [("", False), ("[plugins.prometheus]\npublic_metrics = true", True)]
)
async def test_metrics_are_public_only_if_the_settings_say_so(
    tmp_path: Path,
    toml: str,
    public: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    async with open_measured({"prometheus": PrometheusPlugin()}, tmp_path, toml=toml) as measured:
        assert [(route.path, route.public) for route in measured.routes] == [("/metrics", public)]


async def test_the_client_chooses_format_and_families(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with open_measured({"prometheus": PrometheusPlugin()}, tmp_path) as measured:
            [route] = measured.routes
            response = await get(
                route, query="?name[]=relaykit_sessions", accept="application/openmetrics-text; version=1.0.0"
            )
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    [family] = openmetrics.text_string_to_metric_families(response.text)  # type: ignore[no-untyped-call]  # theirs
    assert {sample.labels["state"]: sample.value for sample in family.samples} == dict.fromkeys(
        SessionState, 0
    )


async def test_a_websocket_is_refused_and_a_lifespan_is_not_supported(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async with open_measured({"prometheus": PrometheusPlugin()}, tmp_path) as measured:
        [route] = measured.routes
        await route.app({"type": "websocket"}, receive, send)
        assert sent == [{"type": "websocket.close"}]
        with pytest.raises(ValueError, match="lifespan"):
            await route.app({"type": "lifespan"}, receive, send)
    assert len(sent) == 1


def test_loading_the_plugin_does_not_load_prometheus_client() -> None:
    program = (
        "import sys; from relaykit_prometheus import PrometheusPlugin;"
        "PrometheusPlugin().relaykit_register_settings();"
        "sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == 0
