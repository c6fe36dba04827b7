"""Sessions without a relay around them, but with its plugins; and what /metrics then says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from relaykit.hooks.dispatch import Dispatcher
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.meters import Meters
from relaykit.hooks.registration import PluginContext, Route
from relaykit.session import Manager, MemoryStore, Store
from relaykit.settings import Settings, load_settings
from relaykit.tasks import OwnedTasks
from relaykit.testing import FakeClock, FakeIds
from support.managers import make_manager

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Measured:
    """A Manager whose hooks and figures go to plugins, and the routes that these offer."""

    manager: Manager
    meter: Meters
    clock: FakeClock
    routes: Sequence[Route]

    async def families(self) -> list[Metric]:
        """Return what one scrape says."""
        [route] = self.routes
        return list(text_string_to_metric_families((await get(route)).text))

    async def scrape(self) -> dict[Series, float]:
        """Return the value of every series."""
        [route] = self.routes
        return all_series((await get(route)).text)


def all_series(text: str) -> dict[Series, float]:
    """Return the value of every series of a scrape in the plain format."""
    return {
        series(sample.name, **sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counts(scraped: Mapping[Series, float]) -> dict[Series, float]:
    """Return what is not 0 of a scrape, without what depends on time: the sums and buckets of histograms."""
    return {
        key: value
        for key, value in scraped.items()
        if value and not key[0].endswith(("_bucket", "_sum")) and key[0].startswith("relaykit_")
    }


def in_short(scraped: Mapping[Series, float], *, without: tuple[str, ...]) -> dict[str, float]:
    """Return `counts` by names as ``session_transitions_total CREATE,done``, but for names that begin so."""
    return {
        f"{name.removeprefix('relaykit_')} {','.join(value for _, value in sorted(labels))}".strip(): value
        for (name, labels), value in counts(scraped).items()
        if not name.removeprefix("relaykit_").startswith(("build_info", *without))
    }


def series(name: str, /, **labels: str) -> Series:
    """Return the key of one series in a scrape."""
    return name, frozenset(labels.items())


class NoBody(httpx.AsyncByteStream):
    """An empty body. httpx's own is a generator that `ASGITransport` leaves behind half read, and trio warns."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


async def get(route: Route, *, query: str = "", accept: str = "*/*") -> httpx.Response:
    """Ask the route's application, as a gateway would that has it mounted."""
    request = httpx.Request(
        "GET", f"http://relay{route.path}{query}", headers={"Accept": accept}, stream=NoBody()
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(route.app)) as client:
        response = await client.send(request)
    response.raise_for_status()
    return response


def settings_from(directory: Path, toml: str = "") -> Settings:
    """Return the settings that this file says, without this machine's environment."""
    config = directory / "relaykit.toml"
    config.write_text(toml)
    return load_settings(config, environ={"HOME": str(directory)}, cwd=directory)


def context_of(
    name: str, settings: object, directory: Path, clock: FakeClock, meter: Meters
) -> PluginContext:
    """Return what a plugin is told when it registers its parts."""
    return PluginContext(
        name=name,
        settings=settings,
        projects={},
        agents={},
        state_dir=directory,
        node="local",
        clock=clock,
        ids=FakeIds(),
        meter=meter,
    )


@asynccontextmanager
async def open_measured(
    plugins: Mapping[str, object],
    directory: Path,
    *,
    store: Store | None = None,
    hook_timeout: float = 20.0,
    toml: str = "",
) -> AsyncIterator[Measured]:
    """Open a Manager with these plugins and no others."""
    loaded = load_plugins(settings_from(directory, toml), entry_points=(), extra=plugins)
    clock, meter = FakeClock(), Meters()

    def contexts(name: str) -> PluginContext:
        return context_of(name, loaded.settings_for(name), directory, clock, meter)

    for provided in loaded.meters(contexts).values():
        meter.add(provided.plugin, provided.value)
    routes = [provided.value for provided in loaded.routes(contexts).values()]
    async with OwnedTasks() as tasks:
        dispatcher = Dispatcher(loaded, clock=clock, tasks=tasks, meter=meter, timeout=hook_timeout)
        manage = partial(make_manager, clock=clock, hooks=dispatcher, meter=meter)
        async with manage(store=MemoryStore() if store is None else store) as manager:
            yield Measured(manager, meter, clock, routes)
