"""``[[permissions]]``: read in order, and wrong rules are told by their number."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaykit.settings import PermissionRule, RuleAction, ToolKind, describe
from support.plugin_sites import settings_from
from support.settings_tables import wrong

RULES = """
[[permissions]]
action = "allow"
kind = "edit"
path = "src/**"

[[permissions]]
action = "reject"
agent = "claude"
project = "default"
"""


def test_rules_are_read_in_their_order(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, RULES)
    assert settings.permissions == (
        PermissionRule(action=RuleAction.ALLOW, kind=ToolKind.EDIT, path="src/**"),
        PermissionRule(action=RuleAction.REJECT, agent="claude", project="default"),
    )
    assert [str(rule) for rule in settings.permissions] == [
        "allow: kind edit, path src/**",
        "reject: agent claude, project default",
    ]
    assert settings_from(tmp_path, "").permissions == ()


def test_rules_are_described(tmp_path: Path) -> None:
    rows = {row.key: row for row in describe(settings_from(tmp_path, RULES), {})}
    assert rows["permissions[1].path"].value == '"src/**"'
    assert rows["permissions[1].path"].origin == f"{tmp_path / 'relaykit.toml'}:2"
    assert (rows["permissions[2].kind"].value, rows["permissions[2].kind"].origin) == ("", "default")
    unset = {row.key: row for row in describe(settings_from(tmp_path, ""), {})}
    assert unset["permissions[N].action"].type == "one of 'allow', 'reject', 'ask'"


@pytest.mark.parametrize(
    ("toml", "key", "said"),
    [
        ('action = "alow"', "permissions[2].action", "did you mean 'allow'?"),
        ('action = "allow"\nkind = "exec"', "permissions[2].kind", "did you mean 'execute'?"),
        ('action = "allow"\nknd = "read"', "permissions[2].knd", "did you mean 'kind'?"),
        ('kind = "read"', "permissions[2].action", "it is required"),
        ('action = "allow"\nkind = ["read"]', "permissions[2].kind", "found a list"),
        ('action = "allow"\nproject = "defualt"', "permissions[2].project", "did you mean 'default'?"),
        ('action = "allow"\npath = "a/../b"', "permissions[2]", "`..`"),
        ('action = "allow"\npath = "~/b"', "permissions[2]", "write the directory out"),
        ('action = "allow"\npath = ""', "permissions[2]", "leave it out"),
    ],
)
def test_a_rule_that_is_wrong_is_told_by_its_number(tmp_path: Path, toml: str, key: str, said: str) -> None:
    error = wrong(tmp_path, f'[[permissions]]\naction = "ask"\n[[permissions]]\n{toml}')
    assert (error.key, error.origin) == (key, f"{tmp_path / 'relaykit.toml'}:3")
    assert said in str(error)


@pytest.mark.parametrize("toml", ['[permissions]\naction = "allow"', "permissions = [1]", "permissions = 1"])
def test_what_is_no_list_of_tables_is_told(tmp_path: Path, toml: str) -> None:
    error = wrong(tmp_path, toml)
    assert error.key == "permissions"
    assert "[[permissions]]" in str(error)


def test_variables_cannot_set_rules(tmp_path: Path) -> None:
    error = wrong(tmp_path, environ={"RELAYKIT_PERMISSIONS__ACTION": "allow"})
    assert error.origin == "RELAYKIT_PERMISSIONS__ACTION"
    assert "write it into the file" in str(error)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('when_busy = "refused"', "when_busy is `queue` or `refuse`"),
        ("permission_timeout = -1.0", "permission_timeout must be 0 or more"),
        ("max_sessions = -1", "max_sessions must be 0 or more"),
        ("grace_period = -0.5", "grace_period must be 0 or more"),
    ],
)
def test_limits_are_checked(tmp_path: Path, toml: str, said: str) -> None:
    assert said in str(wrong(tmp_path, f"[relay]\n{toml}"))
