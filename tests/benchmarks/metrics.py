"""(j) What being seen costs: ``/acp`` with metrics and audit, beside a relay without; and a scrape."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import SocketStream

from durable import stream, turns
from figures import Figure
from relaykit.hooks.loader import load_plugins
from relaykit.relay import open_relay
from relaykit.settings import load_settings
from relaykit_prometheus import PrometheusPlugin
from support.servers import relay
from support.told_agents import NAME, TABLE, ToldLauncher

ROUNDS = 40  # short ones: the speed of a shared machine changes within seconds
TRIPS = 60
UPDATES = 10_000
SESSIONS = 1_000
SCRAPES = 50
AIM_UPDATES = 0.9
AIM_SCRAPE = 20.0

METRICS, BOTH, WITHOUT = "metrics", "metrics and audit", "without"
_DISABLED = {METRICS: ["audit"], BOTH: [], WITHOUT: ["prometheus", "audit"]}


def measure_metrics(*, scale: float) -> Sequence[Figure]:
    scrapes = anyio.run(_scrapes, max(10, int(SESSIONS * scale)), max(5, int(SCRAPES * scale)))
    return [*_talk(scale), *scrapes]


def _talk(scale: float) -> Sequence[Figure]:
    trips: dict[str, list[float]] = {name: [] for name in _DISABLED}
    rates: dict[str, list[float]] = {name: [] for name in _DISABLED}
    costs: dict[str, list[float]] = {name: [] for name in _DISABLED}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(relay(variables={"RELAYKIT_RELAY__DISABLED": json.dumps(disabled)}))
            for name, disabled in _DISABLED.items()
        }
        for number in range(max(4, int(ROUNDS * scale))):
            order = list(servers.items())[:: -1 if number % 2 else 1]  # none is always the first
            for name, server in order:
                trips[name].append(statistics.median(turns(server, TRIPS)))
            for name, server in order:
                before = server.cpu()
                rates[name].append(stream(server, UPDATES))
                costs[name].append((server.cpu() - before) / UPDATES * 1e6)
    rows: list[Figure] = []
    for name in (METRICS, BOTH):
        streamed = _beside(f"/acp updates streamed to one client, with {name}", "/s", rates, name)
        rows += [
            replace(streamed, target=f"≥ {AIM_UPDATES} x without", met=(streamed.ratio or 0) >= AIM_UPDATES),
            Figure(  # of all rounds together: the clock of processor time has ticks of 10 ms
                name=f"CPU of the server for an update, with {name}",
                value=statistics.fmean(costs[name]),
                unit="µs",
                reference=statistics.fmean(costs[WITHOUT]),
                reference_name=WITHOUT,
            ),
            _beside(f"/acp round trip, p50, with {name}", "µs", trips, name),
        ]
    return rows


def _beside(title: str, unit: str, measured: Mapping[str, Sequence[float]], name: str) -> Figure:
    return Figure(
        name=title,
        value=statistics.median(measured[name]),
        unit=unit,
        reference=statistics.median(measured[WITHOUT]),
        reference_name=WITHOUT,
        paired_ratio=statistics.median(
            mine / bare for mine, bare in zip(measured[name], measured[WITHOUT], strict=True)
        ),
    )


async def _scrapes(sessions: int, count: int) -> Sequence[Figure]:
    """Scrape a relay over HTTP, without sessions and with many, whose agents live in its own process."""
    with TemporaryDirectory(prefix="relaykit-benchmark-") as scratch:
        directory = Path(scratch)
        config = directory / "relaykit.toml"
        config.write_text(
            f'[relay]\nworkspace = "in_place"\nstorage = "memory"\ndisabled = ["gateway", "prometheus"]\n'
            f"[plugins.acp]\nknown_agents = false\n[plugins.metrics]\nport = 0\n{TABLE}"
        )
        settings = load_settings(config, environ={"HOME": scratch, "PATH": os.environ["PATH"]}, cwd=directory)
        extra = {"metrics": PrometheusPlugin(), "told": ToldLauncher()}
        async with open_relay(settings, plugins=load_plugins(settings, extra=extra), serve=True) as opened:
            [line] = opened.announcements
            port = int(line.rpartition(":")[2].partition("/")[0])
            empty, cpu_empty, lines = await _scrape(port, count)
            for number in range(sessions):
                await opened.create(f"role-{number}", agent=NAME)
            await anyio.wait_all_tasks_blocked()
            gc.freeze()  # as `relaykit serve` does
            gc.set_threshold(20_000, 20, 50)
            full, cpu_full, lines_then = await _scrape(port, count)
    assert lines == lines_then, f"{lines_then} series with {sessions} sessions, and {lines} without"
    return [
        Figure(
            name=f"a scrape with {sessions} sessions ({lines} lines), p50",
            value=full,
            unit="ms",
            reference=empty,
            reference_name="with none",
            target=f"≤ {AIM_SCRAPE:g} ms",
            met=full <= AIM_SCRAPE,
        ),
        Figure(
            name="the processor's part of that, with its client's, p50",
            value=cpu_full,
            unit="ms",
            reference=cpu_empty,
            reference_name="with none",
        ),
    ]


async def _scrape(port: int, count: int) -> tuple[float, float, int]:
    """Return the milliseconds that a scrape takes, those of the processor, and its lines."""
    times, cpu, body = [], [], b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for _ in range(count):
            started, worked = time.perf_counter(), time.process_time()
            body = await _get(stream)
            times.append((time.perf_counter() - started) * 1e3)
            cpu.append((time.process_time() - worked) * 1e3)
    return statistics.median(times), statistics.median(cpu), body.count(b"\n")


async def _get(stream: SocketStream) -> bytes:
    accept = b"Accept: application/openmetrics-text;version=1.0.0\r\n"
    await stream.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + accept + b"\r\n")
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += await stream.receive()
    head, _, body = heard.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += await stream.receive()
    return body
