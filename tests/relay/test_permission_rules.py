"""Rules on permissions: the first that matches decides, and what is not understood is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaykit.agent import ToolUse
from relaykit.relay.permission_rules import Scene, glob_matches, rule_on
from relaykit.settings import PermissionRule, RuleAction, ToolKind

ALLOW, REJECT, ASK = RuleAction.ALLOW, RuleAction.REJECT, RuleAction.ASK
SCENE = Scene(agent="claude", project="shop", worktree="/w/auth")


def rule(
    action: RuleAction,
    kind: str | None = None,
    path: str | None = None,
    *,
    agent: str | None = None,
    project: str | None = None,
) -> PermissionRule:
    return PermissionRule(
        action=action, kind=ToolKind(kind) if kind else None, path=path, agent=agent, project=project
    )


def decided(
    rules: Sequence[PermissionRule],
    kind: str | None,
    *locations: str,
    scene: Scene = SCENE,
    links: dict[str, str] | None = None,
) -> str:
    """Return how rules decide, as ``2 allow``, or ``ask``.

    :param links: symbolic links, by the paths that begin with them.
    """

    def resolve(path: str) -> str:
        path = os.path.normpath(path)
        for link, target in (links or {}).items():
            if path == link or path.startswith(f"{link}/"):
                return target + path.removeprefix(link)
        return path

    ruling = rule_on(rules, ToolUse(kind, locations), scene, resolve=resolve)
    return "ask" if ruling is None else f"{ruling.number} {ruling.rule.action}"


# ---------------------------------------------------------------- which rule


def test_without_rules_people_are_asked() -> None:
    assert decided([], "read", "/w/auth/a") == "ask"


def test_the_first_rule_that_matches_decides() -> None:
    rules = [rule(ALLOW, "read"), rule(REJECT, "read"), rule(REJECT, "edit"), rule(ALLOW)]
    assert decided(rules, "read") == "1 allow"
    assert decided(rules, "edit") == "3 reject"
    assert decided(rules, "think") == "4 allow"


def test_a_rule_may_leave_it_to_people_whatever_later_ones_say() -> None:
    rules = [rule(ASK, "edit", "secrets/**"), rule(ALLOW, "edit")]
    assert decided(rules, "edit", "/w/auth/secrets/key") == "ask"
    assert decided(rules, "edit", "/w/auth/src/a") == "2 allow"


def test_agent_and_project() -> None:
    rules = [
        rule(REJECT, agent="echo"),
        rule(REJECT, project="other"),
        rule(ALLOW, agent="claude", project="shop"),
    ]
    assert decided(rules, "read") == "3 allow"
    assert decided(rules, "read", scene=Scene("echo", "shop", "/w/auth")) == "1 reject"
    assert decided(rules, "read", scene=Scene("claude", "other", "/w/auth")) == "2 reject"


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("pattern", "location", "fits"),
    [
        ("src/**", "/w/auth/src/a/b.py", True),
        ("src/**", "/w/auth/src", True),
        ("src/**", "/w/auth/srcs/a", False),
        ("src/**", "/w/other/src/a", False),
        ("src/", "/w/auth/src/a/b.py", True),
        ("*.py", "/w/auth/a.py", True),
        ("*.py", "/w/auth/src/a.py", False),
        ("**/*.py", "/w/auth/a.py", True),
        ("**/*.py", "/w/auth/src/x/a.py", True),
        ("**/.env", "/w/auth/deep/.env", True),
        ("a?c/[xy]", "/w/auth/abc/y", True),
        ("a?c/[xy]", "/w/auth/a/c/y", False),
        ("/w/auth/src/**", "/w/auth/src/a", True),
        ("/etc/*", "/etc/passwd", True),
        ("/etc/*", "/etc/ssl/key", False),
        ("**", "/etc/passwd", False),
        ("/**", "/etc/passwd", True),
    ],
)
def test_patterns(pattern: str, location: str, fits: bool) -> None:  # noqa: FBT001 -- a table
    assert decided([rule(ALLOW, "edit", pattern)], "edit", location) == ("1 allow" if fits else "ask")
    assert decided([rule(REJECT, "edit", pattern)], "edit", location) == ("1 reject" if fits else "ask")


def test_all_paths_must_be_allowed_and_one_is_enough_to_be_rejected() -> None:
    inside, outside = "/w/auth/src/a", "/w/auth/b"
    assert decided([rule(ALLOW, "edit", "src/**")], "edit", inside, outside) == "ask"
    assert decided([rule(ALLOW, "edit", "src/**")], "edit", inside, inside) == "1 allow"
    assert decided([rule(REJECT, "edit", "src/**")], "edit", outside, inside) == "1 reject"


@pytest.mark.parametrize(
    "location", ["/w/auth/src/../../../etc/passwd", "/w/auth/src/../src/a", "src/a", "", "/w/\0"]
)
@pytest.mark.parametrize(
    "allow", [rule(ALLOW), rule(ALLOW, "edit"), rule(ALLOW, "edit", "/**"), rule(ALLOW, None, "**")]
)
def test_a_path_that_is_not_plain_is_never_allowed(allow: PermissionRule, location: str) -> None:
    assert decided([allow], "edit", location) == "ask"
    assert decided([allow], "edit", "/w/auth/src/a", location) == "ask"


def test_a_path_that_goes_round_is_rejected_for_where_it_ends() -> None:
    assert decided([rule(REJECT, "edit", "secrets/**")], "edit", "/w/auth/src/../secrets/a") == "1 reject"
    assert decided([rule(REJECT, "edit", "secrets/**")], "edit", "secrets/a") == "1 reject"


def test_a_link_that_leads_out_is_never_allowed() -> None:
    links = {"/w/auth/out": "/etc"}
    for allow in (rule(ALLOW), rule(ALLOW, "read"), rule(ALLOW, "read", "**"), rule(ALLOW, "read", "/**")):
        assert decided([allow], "read", "/w/auth/out/passwd", links=links) == "ask"
    rules = [rule(REJECT, "read", "/etc/**"), rule(ALLOW)]
    assert decided(rules, "read", "/w/auth/out/passwd", links=links) == "1 reject"


def test_a_link_that_leads_elsewhere_in_the_worktree_is_allowed_where_it_ends_too() -> None:
    links = {"/w/auth/src/keys": "/w/auth/secrets"}
    assert decided([rule(ALLOW, "read", "src/**")], "read", "/w/auth/src/keys/a", links=links) == "ask"
    assert decided([rule(ALLOW, "read", "**")], "read", "/w/auth/src/keys/a", links=links) == "1 allow"
    rules = [rule(REJECT, "read", "secrets/**"), rule(ALLOW)]
    assert decided(rules, "read", "/w/auth/src/keys/a", links=links) == "1 reject"


def test_a_worktree_behind_a_link_is_the_worktree() -> None:
    links = {"/w": "/private/w"}
    for pattern in ("src/**", "/w/auth/src/**"):
        assert decided([rule(ALLOW, "read", pattern)], "read", "/w/auth/src/a", links=links) == "1 allow"
    assert decided([rule(ALLOW, "read", "src/**")], "read", "/private/w/auth/src/a", links=links) == "ask"
    rules = [rule(REJECT, "read", "src/**"), rule(ALLOW)]
    assert decided(rules, "read", "/private/w/auth/src/a", links=links) == "1 reject"


def test_links_on_the_disk(tmp_path: Path) -> None:
    worktree = tmp_path / "worktree"
    (worktree / "src").mkdir(parents=True)
    (worktree / "out").symlink_to("/etc")
    scene = Scene("claude", "shop", str(worktree))
    allow = [rule(ALLOW, "edit", "**")]

    def decides(name: str) -> bool:
        return rule_on(allow, ToolUse("edit", (str(worktree / name),)), scene) is not None

    assert decides("src/new.py")
    assert not decides("out/passwd")
    (worktree / "src" / "up").symlink_to("../..")
    assert not decides("src/up/other")


# ---------------------------------------------------------------- what is not understood


def test_what_says_no_paths_is_not_allowed_by_one() -> None:
    assert decided([rule(ALLOW, "edit", "**")], "edit") == "ask"
    assert decided([rule(ALLOW, path="/**")], "execute", "/w/auth/a") == "ask"  # it may touch others
    assert (
        decided([rule(ALLOW, "execute", "/**")], "execute", "/w/auth/a") == "1 allow"
    )  # as somebody wants it
    assert decided([rule(ALLOW, path="/**")], "read", "/w/auth/a") == "1 allow"


@pytest.mark.parametrize("guard", [REJECT, ASK])
def test_nothing_is_allowed_behind_a_rule_that_might_have_prevented_it(guard: RuleAction) -> None:
    rules = [rule(guard, path="secrets/**"), rule(ALLOW)]
    assert decided(rules, "execute") == "ask"
    assert decided(rules, "execute", "/w/auth/a") == "ask"
    assert decided(rules, "other") == "ask"
    assert decided(rules, "read") == "ask"
    assert decided(rules, None, "/w/auth/a") == "ask"
    assert decided(rules, "read", "/w/auth/a") == "2 allow"
    assert decided(rules, "think") == "2 allow"
    assert decided([rule(guard, "execute"), rule(ALLOW)], None) == "ask"
    assert decided([rule(guard, "execute"), rule(ALLOW)], "read") == "2 allow"


def test_without_a_worktree_relative_patterns_are_in_doubt() -> None:
    nowhere = Scene("claude", "shop", "")
    assert decided([rule(ALLOW, "read", "src/**")], "read", "/src/a", scene=nowhere) == "ask"
    assert decided([rule(REJECT, "read", "src/**"), rule(ALLOW)], "read", "/src/a", scene=nowhere) == "ask"
    assert decided([rule(ALLOW, "read", "/src/**")], "read", "/src/a", scene=nowhere) == "1 allow"


def test_what_the_disk_does_not_tell_is_asked() -> None:
    def fail(_path: str) -> str:
        raise OSError("not today")

    assert rule_on([rule(ALLOW)], ToolUse("read", ("/a",)), SCENE, resolve=fail) is None


# ---------------------------------------------------------------- properties

NAMES = st.sampled_from(["a", "b", "src", ".env", "a.py"])
PATHS = st.lists(st.one_of(NAMES, st.just("..")), max_size=5).map(
    lambda names: "/" + "/".join(["w", "auth", *names])
)
PATTERNS = st.lists(
    st.sampled_from(["a", "*", "**", "src", "?", "*.py", ".env", "[ab]"]), min_size=1, max_size=5
)
KINDS = st.one_of(st.none(), st.sampled_from([kind.value for kind in ToolKind]))
RULES = st.lists(
    st.builds(
        PermissionRule,
        action=st.sampled_from(RuleAction),
        kind=st.one_of(st.none(), st.sampled_from(ToolKind)),
        path=st.one_of(st.none(), PATTERNS.map("/".join), PATTERNS.map(lambda names: "/" + "/".join(names))),
        agent=st.one_of(st.none(), st.sampled_from(["claude", "echo"])),
    ),
    max_size=5,
)


@given(st.lists(NAMES, max_size=6), PATTERNS)
def test_globs_are_what_their_regular_expressions_are(names: list[str], pattern: list[str]) -> None:
    ways = {"*": "[^/]*/", "**": "(?:[^/]+/)*", "?": "[^/]/", "*.py": r"[^/]*\.py/", "[ab]": "[ab]/"}
    expression = "".join(ways.get(part, re.escape(part) + "/") for part in pattern)
    expected = re.fullmatch(expression, "".join(f"{name}/" for name in names)) is not None
    assert glob_matches(names, pattern) is expected


@given(RULES, KINDS, st.lists(PATHS, max_size=3))
def test_nothing_is_allowed_that_is_in_doubt(
    rules: list[PermissionRule], kind: str | None, paths: list[str]
) -> None:
    said = decided(rules, kind, *paths)
    if said.endswith("allow"):
        assert not any(".." in path for path in paths)
        number = int(said.split()[0])
        chosen = rules[number - 1]
        assert chosen.kind in {None, kind}
        assert chosen.path is None or paths
        # Nothing before it could have prevented it, were it there alone with a rule that allows everything.
        for earlier in rules[: number - 1]:
            assert decided([earlier, rule(ALLOW)], kind, *paths).endswith("allow")


@given(RULES, RULES, KINDS, st.lists(PATHS, max_size=3))
def test_what_rules_have_decided_no_rule_behind_them_changes(
    rules: list[PermissionRule], more: list[PermissionRule], kind: str | None, paths: list[str]
) -> None:
    said = decided(rules, kind, *paths)
    if said != "ask":
        assert decided([*rules, *more], kind, *paths) == said


@given(RULES, KINDS, st.lists(PATHS, max_size=2), PATHS)
def test_who_touches_more_is_not_allowed_more(
    rules: list[PermissionRule], kind: str | None, paths: list[str], another: str
) -> None:
    if decided(rules, kind, *paths, another).endswith("allow") and paths:
        assert not decided(rules, kind, *paths).endswith("reject")
