"""The dashboard and the rules speak of metrics that there are, and Prometheus understands them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import anyio
import pytest

from relaykit.meter import Figure, FigureKind
from relaykit_prometheus.assets import NAMES, assets
from relaykit_prometheus.meter import name_of
from relaykit_prometheus.metrics import BUILD_INFO
from relaykit_prometheus.reference import known_figures

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus brings it"
)

DASHBOARD, RECORDING, ALERTING = NAMES

OF_THE_PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
}
"""Those of prometheus_client's own that we name. (It shows them on Linux; a test of the scrape sees to that.)"""


@pytest.fixture(scope="module")
def figures() -> Sequence[Figure]:
    return anyio.run(known_figures)


def labels_by_series(figures: Sequence[Figure]) -> Mapping[str, set[str]]:
    """Return the labels of every series that a scrape may hold, by its name."""
    found: dict[str, set[str]] = {BUILD_INFO[0]: {BUILD_INFO[2]}}
    for figure in figures:
        labels = set(figure.labels)
        if figure.kind is FigureKind.HISTOGRAM:
            name = name_of(figure)
            found |= {f"{name}_bucket": {*labels, "le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[name_of(figure)] = labels
    return found | {name: set() for name in OF_THE_PROCESS}


def dashboard() -> Any:
    return json.loads(assets()[DASHBOARD])


def text_of(name: str) -> str:
    return assets()[name].decode()


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression of the dashboard and of the rules, with where it stands."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield f"the panel {panel['title']!r}", target["expr"]
    for name in (RECORDING, ALERTING):
        text = re.sub(r"^\s*#.*$", "", text_of(name), flags=re.MULTILINE)
        for rule in re.split(r"\n\s+- (?=alert|record)", text)[1:]:
            body = re.split(r"\n\s+(?:for|labels|annotations):", rule)[0]
            title, _, expression = body.partition("expr:")
            yield f"{title.strip()} of {name}", expression


def recorded() -> set[str]:
    return set(re.findall(r"record: (\S+)", text_of(RECORDING)))


def test_every_metric_that_they_name_is_there_with_these_labels(figures: Sequence[Figure]) -> None:
    known = labels_by_series(figures)
    of_prometheus = {"job", "instance"}
    found = list(expressions())
    assert len(found) > 60
    for where, expression in found:
        bare = expression
        for name in sorted(recorded(), key=len, reverse=True):  # they hold the names of what they are made of
            bare = bare.replace(name, "")
        for name in re.findall(r"\b(?:relaykit|process)_\w+", re.sub(r'"[^"]*"', '""', bare)):
            assert name in known, f"{where} names {name}, which is no metric"
        for name, matchers in re.findall(r"\b((?:relaykit|process)_\w+)\{([^}]*)\}", bare):
            for label in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"', matchers):
                assert label in known[name] | of_prometheus, f"{where}: {name} has no label {label}"


def test_every_value_that_they_ask_for_is_one_that_there_is(figures: Sequence[Figure]) -> None:
    values = {(name_of(figure), label): set(of) for figure in figures for label, of in figure.labels.items()}
    asked = 0
    for where, expression in expressions():
        for name, matchers in re.findall(r"\b(relaykit_\w+)\{([^}]*)\}", expression):
            for label, value in re.findall(r'(\w+)\s*(?:=|!=|=~)\s*"([\w|]+)"', matchers):
                base = re.sub(r"_(bucket|count|sum)$", "", name)
                known = values.get((base, label), set())
                if known:
                    asked += 1
                    assert set(value.split("|")) <= known, f"{where}: {label} is never {value}"
    assert asked > 5


def test_they_group_by_labels_that_there_are(figures: Sequence[Figure]) -> None:
    known = labels_by_series(figures)
    grouped = 0
    for where, expression in expressions():
        there = {"job", "instance"}
        for name in re.findall(r"\b(?:relaykit|process)_\w+", expression):
            there |= known.get(name, set())
        for label in re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))):
            grouped += 1
            assert label in there, f"{where} groups by {label}, which nothing in it has"
    assert grouped > 50
    for rule in re.split(r"\n\s+- alert: ", text_of(ALERTING))[1:]:
        names = re.findall(r"\b(?:relaykit|process)_\w+", rule)
        there = {"job", "instance"}.union(*(known.get(name, set()) for name in names))
        there |= {label for name in re.findall(r"\bjob_(\w+):", rule) for label in name.split("_")}
        assert set(re.findall(r"\$labels\.(\w+)", rule)) <= there, rule
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
            assert shown <= {"job", "instance", *re.findall(r"\w+", target["expr"])}, panel["title"]


def test_every_recorded_rule_that_is_used_is_recorded() -> None:
    used = {name for _, text in expressions() for name in re.findall(r"\bjob_\w*(?::\w+)+", text)}
    assert used
    assert used <= recorded()


def test_every_figure_is_on_the_dashboard(figures: Sequence[Figure]) -> None:
    shown = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ()))
    assert [name_of(figure) for figure in figures if name_of(figure) not in shown] == []


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not squares & places, panel["title"]
        places |= squares
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
    assert [variable["name"] for variable in dashboard()["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "place"
    command = [sys.executable, "-m", "relaykit", "metrics"]
    done = subprocess.run([*command, directory], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(directory / name) for name in NAMES]
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == assets()
    (tmp_path / "file").touch()
    failed = subprocess.run(
        [*command, tmp_path / "file"], check=False, timeout=60, capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert "cannot be written" in failed.stderr


# ---------------------------------------------------------------- promtool


def promtool(*arguments: object) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def rules(tmp_path: Path) -> Sequence[Path]:
    for name, content in assets().items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / RECORDING, tmp_path / ALERTING]


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_rules(rules: Sequence[Path]) -> None:
    promtool("check", "rules", *rules)


@needs_promtool
def test_promtool_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    asked = [expression for where, expression in expressions() if "panel" in where]
    rules = [
        {
            "record": f"panel:{number}",
            "expr": expression.replace("$__rate_interval", "5m"),
        }
        for number, expression in enumerate(asked)
    ]
    file = tmp_path / "dashboard.yml"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


class Case(NamedTuple):
    """An alert, and what it is about.

    :param values: of each series, how it goes on when something is wrong, in Prometheus' own words: a value a minute.
    :param after: how long it takes until it fires.
    :param labels: those that it fires with.
    :param steady: how they go on when nothing is; by default at 0.
    """

    alert: str
    values: Mapping[str, str]
    after: str
    labels: Mapping[str, str]
    steady: Mapping[str, str] = MappingProxyType({})


def series(name: str, **labels: str) -> str:
    """Return a series of the relay that is asked about."""
    said = {"job": "relaykit", "instance": "a", **labels}
    matchers = ", ".join(f'{label}="{value}"' for label, value in said.items())
    return f"{name}{{{matchers}}}"


def only(case: str, name: str, values: str, after: str, *, grouped: bool = False, **labels: str) -> Case:
    """Return the case of one series, with whose labels it fires unless they were added up."""
    return Case(case, {series(name, **labels): values}, after, {} if grouped else labels)


_STARTS, _FAILURES = "relaykit_agent_spawn_seconds_count", "relaykit_agent_spawn_failures_total"
_APPENDS = "relaykit_storage_operation_seconds_bucket"

CASES = (
    Case("RelaykitDown", {series("up"): "1 1 0x10"}, "5m", {}, {series("up"): "1x40"}),
    Case(
        "RelaykitAgentsDoNotStart",
        {
            series(_FAILURES, agent="claude", error="ProgramNotFound"): "0 1 2 3 4x20",
            series(_STARTS, agent="claude"): "0x40",
        },
        "10m",
        {"agent": "claude"},
        {  # it starts for the most part
            series(_FAILURES, agent="claude", error="ProgramNotFound"): "0 1 2 3 4x20",
            series(_STARTS, agent="claude"): "0+5x40",
        },
    ),
    only("RelaykitAgentsCrash", "relaykit_agent_crashes_total", "0 1 2 3 4 5x20", "15m"),
    only(
        "RelaykitInternalErrors",
        "relaykit_session_terminations_total",
        "0 0 1x30",
        "10m",
        cause="INTERNAL",
    ),
    only("RelaykitAgentsAreKilled", "relaykit_agent_shutdown_steps_total", "0+1x40", "30m", step="kill"),
    only(
        "RelaykitCleanersFail",
        "relaykit_cleanups_total",
        "0 0 1x30",
        "15m",
        cleaner="worktree",
        outcome="FAILED",
    ),
    only("RelaykitSessionsDoNotEnd", "relaykit_sessions", "0 2x40", "30m", state="TERMINATING"),
    only("RelaykitQuestionsWait", "relaykit_questions_waiting", "0 1x40", "35m"),
    only(
        "RelaykitStorageFails",
        "relaykit_storage_errors_total",
        "0 0 1 2 3x10",
        "5m",
        operation="journal_append",
    ),
    Case(
        "RelaykitStorageIsSlow",
        {
            series(_APPENDS, operation="journal_append", le="0.1"): "0x40",
            series(_APPENDS, operation="journal_append", le="1"): "0+60x40",
            series(_APPENDS, operation="journal_append", le="+Inf"): "0+60x40",
        },
        "20m",
        {"operation": "journal_append"},
        {
            series(_APPENDS, operation="journal_append", le="0.1"): "0+60x40",
            series(_APPENDS, operation="journal_append", le="1"): "0+60x40",
            series(_APPENDS, operation="journal_append", le="+Inf"): "0+60x40",
        },
    ),
    only(
        "RelaykitClientsStall", "relaykit_clients_stalled_total", "0+1x40", "15m", grouped=True, protocol="ws"
    ),
    only(
        "RelaykitHookSwitchedOff",
        "relaykit_hook_failures_total",
        "0 1x10",
        "5m",
        plugin="p",
        hook="relaykit_on_transition",
        failure="switched_off",
    ),
    Case(
        "RelaykitPolicyFails",
        {
            series(
                "relaykit_hook_failures_total", plugin="p", hook="relaykit_check_prompt", failure="error"
            ): "0 0 1x20"
        },
        "10m",
        {"plugin": "p", "hook": "relaykit_check_prompt"},
    ),
    Case(
        "RelaykitFileDescriptorsRunOut",
        {series("process_open_fds"): "900x20", series("process_max_fds"): "1000x20"},
        "10m",
        {},
        {series("process_open_fds"): "100x20", series("process_max_fds"): "1000x20"},
    ),
)


def test_there_is_a_case_of_every_alert() -> None:
    assert [case.alert for case in CASES] == re.findall(r"alert: (\w+)", text_of(ALERTING))


@needs_promtool
@pytest.mark.usefixtures("rules")
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    severity = dict(re.findall(r"alert: (\w+)[\s\S]*?severity: (\w+)", text_of(ALERTING)))
    tests = []
    for case in CASES:
        fires = {"job": "relaykit", "instance": "a", "severity": severity[case.alert], **case.labels}
        steady = case.steady or dict.fromkeys(case.values, "0x40")
        for values, expected in ((case.values, [{"exp_labels": fires}]), (steady, [])):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": name, "values": each} for name, each in values.items()],
                    "alert_rule_test": [
                        {"eval_time": case.after, "alertname": case.alert, "exp_alerts": expected}
                    ],
                }
            )
    file = tmp_path / "tests.yml"
    # Without what they say to people, which is not what this is about.
    bare = re.sub(r"\n        annotations:\n(?:          .*\n)+", "\n", text_of(ALERTING))
    (tmp_path / ALERTING).write_text(bare)
    file.write_text(json.dumps({"rule_files": [RECORDING, ALERTING], "tests": tests}))
    promtool("test", "rules", file)
