"""The contracts catch what breaks them: else all that pass them would prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

BROKEN = Path(__file__).with_name("broken_parts.py")

CAUGHT = {
    "TestSound": set[str](),
    "TestDoesNothing": {
        "test_what_is_recorded_is_released_without_a_handle",
        "test_and_with_one_that_has_no_agent",
        "test_it_may_run_again",
        "test_other_sessions_are_left_alone",
        "test_sessions_are_cleaned_at_the_same_time",
        "test_cut_off_on_its_way_it_ends_its_work_the_next_time",
    },
    "TestRunsOnce": {
        "test_it_may_run_again",
        "test_cut_off_on_its_way_it_ends_its_work_the_next_time",
    },
    "TestTakesAll": {"test_other_sessions_are_left_alone"},
    "TestNeedsTheHandle": {
        "test_what_is_recorded_is_released_without_a_handle",
        "test_it_may_run_again",
        "test_other_sessions_are_left_alone",
        "test_sessions_are_cleaned_at_the_same_time",
        "test_cut_off_on_its_way_it_ends_its_work_the_next_time",
    },
    "TestEager": {
        "test_what_identifies_it_is_recorded_before_it_is_made",
        "test_what_cannot_be_recorded_is_not_made",
        "test_cut_off_on_its_way_it_leaves_nothing",
    },
    "TestShared": {
        "test_roles_are_apart",
        "test_directories_are_prepared_at_the_same_time",
    },
    "TestLate": {
        "test_it_is_recorded_before_it_is_started",
        "test_what_cannot_be_recorded_is_not_started",
        "test_cut_off_on_its_way_it_leaves_nothing",
        "test_yes_is_said_where_it_is_offered",
    },
    "TestLeavesThem": {"test_leaving_the_launcher_ends_its_agents"},
    "TestSilent": {"test_an_agent_that_is_closed_is_gone", "test_leaving_the_launcher_ends_its_agents"},
    "TestPagesForEver": {
        "test_pages_follow_each_other_without_a_gap",
        "test_a_page_is_full_though_few_match",
    },
    "TestForgetsAll": {"test_sessions_are_as_durable_as_it_says", "test_and_so_are_transcripts"},
    "TestForgetsWhatWasSaid": {"test_and_so_are_transcripts"},
    "TestKeepsNothingAndSaysSo": set[str](),
    "TestOpensOnce": {"test_it_can_be_opened_again"},
}
"""What each of the broken parts fails, and no more."""


def test_each_broken_part_fails_what_it_breaks_and_no_more(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", str(BROKEN), "--rootdir", str(tmp_path), "-c", "/dev/null"),
            *(
                "--import-mode=importlib",
                "-p",
                "no:cacheprovider",
                "-p",
                "anyio",
                "-k",
                "asyncio",
                f"--junitxml={report}",
            ),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    failed: dict[str, set[str]] = {name: set() for name in CAUGHT}
    for case in ET.parse(report).iter("testcase"):
        part = case.attrib["classname"].rpartition(".")[2]
        if case.find("failure") is not None or case.find("error") is not None:
            failed[part].add(case.attrib["name"].partition("[")[0])
    assert failed == CAUGHT
