"""``[[hooks]]`` as they are written: what is wrong is told with its place, before anything happens."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from relaykit.errors import SettingsError
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.registration import Surroundings, Verdict
from relaykit.relay.choice import plugin_contexts
from relaykit.session import Cause
from relaykit.settings import describe
from relaykit.settings.schema import json_schema
from relaykit_actions import ActionsPlugin
from relaykit_actions.checks import checks
from relaykit_actions.happenings import EVENTS
from relaykit_actions.settings import ActionsSettings
from relaykit_actions.template import SAFE, Template
from support.plugin_sites import settings_from
from support.relays import acting_relay

README = Path(__file__).parents[1] / "README.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RUN = 'run = ["true"]'
POST = 'post = "https://example.com/hook/hush"'


def actions(directory: Path, toml: str, **environ: str) -> ActionsSettings:
    return settings_from(directory, toml, environ=environ).plugin("actions", ActionsSettings)


@pytest.mark.parametrize(
    ("toml", "key", "said"),
    [
        (RUN, "on", "it is required"),
        (f"on = []\n{RUN}", "on", "it names no event"),
        (
            f'on = ["activ"]\n{RUN}',
            "on",
            r"there is no event 'activ' \(did you mean 'active'\?\); there are: created",
        ),
        (f'on = ["active"]\n{RUN}\nrole = 1', "role", "expected a string"),
        (f'on = ["active"]\n{RUN}\nrol = "a"', "rol", "did you mean 'role'"),
        (f'on = ["cleaned"]\n{RUN}\ncause = ["IDEL"]', "cause", "there is no cause 'IDEL'.*'IDLE'"),
        (f'on = ["cleaned", "active"]\n{RUN}\ncause = ["IDLE"]', "cause", "'active' has no cause"),
        (f'on = ["refused"]\n{RUN}\nrole = "a*"', "role", "'refused' has no role"),
        (f'on = ["refused"]\n{RUN}\nproject = "default"', "project", "'refused' has no project"),
        ('on = ["active"]', "", "one of `run` and `post`"),
        (f'on = ["active"]\n{RUN}\n{POST}', "", "one of `run` and `post`"),
        (f'on = ["active"]\n{RUN}\ntimeout = 0', "timeout", "more than 0"),
        ('on = ["active"]\nrun = "true"', "run", "expected a list of strings"),
        ('on = ["active"]\nrun = [""]', "run", "begin with the name of a program"),
        ('on = ["active"]\nrun = ["{agent}"]', "run", "begin with the name of a program"),
        ('on = ["active"]\nrun = ["true", "a\\u0000"]', "run", "zero byte"),
        (
            'on = ["active"]\nrun = ["true", "{agnt_id}"]',
            "run",
            r"a field \{agnt_id\}.*did you mean 'agent_id'",
        ),
        (
            'on = ["active", "question"]\nrun = ["true", "- {tool}"]',
            "run",
            r"\{tool\} that not all of its events have",
        ),
        ('on = ["active"]\nrun = ["true", "{agent_id"]', "run", "is no template"),
        ('on = ["active"]\nrun = ["true", "{}"]', "run", r"a field \{\}"),
        ('on = ["active"]\nrun = ["true", "{agent_id.__class__}"]', "run", r"a field \{agent_id.__class__\}"),
        ('on = ["active"]\nrun = ["true", "{agent_id!r:>9}"]', "run", r"a field \{agent_id!r:>9\}"),
        ('on = ["question"]\nrun = ["true", "{tool}"]', "run", "begins with what others say"),
        (f'on = ["active"]\n{RUN}\nenv = ["A=hush"]', "env", "'A' is not one"),
        (f'on = ["active"]\n{RUN}\nsecret = "A"', "secret", "is for `post`"),
        (f'on = ["active"]\n{RUN}\nallow_private = true', "allow_private", "is for `post`"),
        (f'on = ["active"]\n{POST}\nenv = ["A"]', "env", "is for `run`"),
        (f'on = ["active"]\n{POST}\nsecret = "{SECRET}"', "secret", "never the secret itself"),
        (f'on = ["active"]\n{POST}\nsecret = "hush hush"', "secret", "never the secret itself"),
        ('on = ["active"]\npost = "http://example.com/hush"', "post", "https://host/path; http:// needs"),
        (
            'on = ["active"]\npost = "ftp://example.com/hush"\nallow_private = true',
            "post",
            "https://host/path",
        ),
        ('on = ["active"]\npost = "https://example.com:0/hush"', "post", "https://host/path"),
        ('on = ["active"]\npost = "https://[::1/hush"', "post", "https://host/path"),
        ('on = ["active"]\npost = "https://exa mple.com/hush"', "post", "https://host/path"),
        ('on = ["active"]\npost = "https://example.com/hush/{agent}"', "post", "a URL has no fields"),
        (f'on = ["active"]\n{RUN}\nrole = ""', "role", "it is empty, and would never match"),
        (f'on = ["active"]\n{RUN}\nproject = ""', "project", "it is empty, and would never match"),
        ('on = ["active"]\npost = "https://me:hush@example.com/"', "post", "no user, no password"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, toml: str, key: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        actions(tmp_path, f'[[hooks]]\non = ["active"]\n{RUN}\n[[hooks]]\n{toml}\n')
    assert raised.value.key == f"hooks[2].{key}".removesuffix(".")
    assert raised.value.origin.startswith(f"{tmp_path / 'relaykit.toml'}:4")
    assert "hush" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("concurrency = 0", "concurrency must be 1"),
        ("max_pending = 0", "max_pending must be 1"),
        ("retries = -1", "retries must be 0"),
        ("shutdown_timeout = -1", "shutdown_timeout must be 0"),
        ("[[plugins.actions.hooks]]", r"write it as \[\[hooks\]\]"),
    ],
)
def test_what_is_wrong_with_the_table_is_told(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        actions(tmp_path, f"[plugins.actions]\n{toml}\n")


@pytest.mark.parametrize(
    ("toml", "key", "said"),
    [
        ('run = ["there-is-no-such-program"]', "run", "no program 'there-is-no-such-program' on PATH"),
        (f'{RUN}\nenv = ["PATH", "UNSET"]', "env", "not set in the environment: UNSET"),
        (f'{RUN}\nagent = "ecko"', "agent", r"no agent 'ecko' \(did you mean 'echo'\?\)"),
        (f'{RUN}\nproject = "shop"', "project", "no project 'shop'; there are: default"),
        (f'{POST}\nsecret = "UNSET"', "secret", "UNSET is not set"),
        (
            f'{POST}\nsecret = "SHORT"',
            "secret",
            "what SHORT holds is none: it must be whsec_ and the base64 of 24",
        ),
        ('post = "https://127.0.0.1/hush"', "post", "127.0.0.1 is not on the public internet"),
        ('post = "https://[::ffff:10.0.0.1]/hush"', "post", "is not on the public internet"),
        ('post = "https://LocalHost./hush"', "post", "localhost. is not on the public internet"),
        ('post = "https://me.localhost/hush"', "post", "me.localhost is not on the public internet"),
        ('post = "https://☃..☃/hush"', "post", "it is no URL"),
    ],
)
@pytest.mark.anyio
async def test_what_could_never_work_is_an_error_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toml: str, key: str, said: str
) -> None:
    monkeypatch.setenv("SHORT", "whsec_aHVzaA==")
    with pytest.raises(SettingsError, match=said) as raised:
        async with acting_relay(tmp_path, toml=f'[[hooks]]\non = ["active"]\n{toml}\n'):
            pass
    file = tmp_path / "project" / "relaykit.toml"
    assert (raised.value.key, raised.value.origin) == (f"hooks[1].{key}", f"{file}:1")
    assert "hush" not in str(raised.value)
    assert "aHVzaA" not in str(raised.value)


@pytest.mark.anyio
async def test_only_what_some_hook_is_for_is_listened_to(tmp_path: Path) -> None:
    hooks = {kind.hook for kind in EVENTS.values()}
    assert hooks == {name for name in dir(ActionsPlugin) if name.startswith("relaykit_on_")}
    for toml, heard in (
        ("", set()),
        (
            f'[[hooks]]\non = ["active", "crashed"]\n{RUN}\n[[hooks]]\non = ["cleaned"]\n{RUN}\n',
            {"relaykit_on_transition", "relaykit_on_asleep"},
        ),
    ):
        async with acting_relay(tmp_path, toml=toml) as relay:
            assert {hook for hook in hooks if relay._dispatcher.listens_to(hook)} == heard


@pytest.mark.anyio
async def test_doctor_says_whether_hooks_can_work(tmp_path: Path) -> None:
    toml = f"""
    [[hooks]]
    on = ["active", "question"]
    {RUN}
    [[hooks]]
    on = ["active"]
    {POST}
    [[hooks]]
    on = ["active"]
    run = ["there-is-no-such-program"]
    """
    settings = settings_from(tmp_path, toml)
    context = plugin_contexts(settings, load_plugins(settings), agents={})("actions")
    (check,) = checks(context, os.environ)
    found = await check.look(Surroundings(running=False, sessions={}, workspace="worktree"))
    assert [finding.what for finding in found[:2]] == [
        "hooks[1] runs true on active, question",
        "hooks[2] posts to example.com on active, unsigned",
    ]
    assert found[2].verdict is Verdict.TROUBLE
    assert "relaykit.toml:8: hooks[3].run: there is no program" in found[2].what
    assert "hush" not in str(found)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    toml = f'[[hooks]]\non = ["active"]\n{POST}\nsecret = "HOOK_SECRET"\n'
    settings = settings_from(tmp_path, toml, environ={"HOOK_SECRET": SECRET})
    rows = {row.key: row for row in describe(settings, {"actions": ActionsSettings})}
    assert rows["hooks[1].post"].value == '"https://example.com/***"'
    assert rows["hooks[1].secret"].value == '"HOOK_SECRET"'
    everything = f"{rows!r} {settings.plugin('actions', ActionsSettings)!r}"
    assert "hush" not in everything
    assert SECRET not in everything


def test_editors_know_the_hooks() -> None:
    schema = jsonschema.Draft7Validator(json_schema({"actions": ActionsSettings}))
    (shown,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    for toml, valid in (
        (shown, True),
        ("[plugins.actions]\nretries = 1", True),
        ('[[hooks]]\non = ["active"]\nrun = ["true"]\nrol = "a"', False),
        ('[[hooks]]\non = "active"', False),
        ("[[hooks]]\nrun = []", False),
        ('[[hooks]]\non = ["active"]\nwhere = {}', False),
        ("[plugins.actions]\nhooks = []", False),
    ):
        assert schema.is_valid(tomllib.loads(toml)) is valid, toml


# ---------------------------------------------------------------- templates


def test_a_template_is_filled() -> None:
    template = Template("{agent_id}: {{{tool}}}, {reason}.", {"agent_id", "tool", "reason"})
    values = {"agent_id": "auth", "tool": "rm -r\n\x1b[31m\ud800 \u202ebuild", "reason": None}
    assert template.fill(values) == "auth: {rm -r  [31m   build}, ."


@pytest.mark.parametrize("field", sorted({field for kind in EVENTS.values() for field in kind.fields} - SAFE))
def test_an_argument_does_not_begin_with_what_others_say(field: str) -> None:
    with pytest.raises(ValueError, match="begins with what others say"):
        Template(f"{{{field}}}", [field])
    assert Template(f"> {{{field}}}", [field]).fill({field: "--help"}) == "> --help"


# ---------------------------------------------------------------- the README


def rows(header: str) -> dict[str, tuple[str, ...]]:
    """Return the rows of one of the README's tables, by their first cells."""
    text = README.read_text()
    table = text[text.index(header) :].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in table]
    return {first.strip("`"): tuple(rest) for first, *rest in cells}


def test_the_table_of_events_is_the_codes() -> None:
    table = rows("| `on` | when | fields |")
    assert list(table) == list(EVENTS)
    for event, kind in EVENTS.items():
        when, named = table[event]
        assert when == kind.when
        session = ("session_id", "agent_id", "agent", "project", "owner", "worktree_dir")
        names = re.findall(
            r"`(\w+)`", named.replace("the session's", " ".join(f"`{name}`" for name in session))
        )
        assert tuple(names) == kind.fields, event


def test_the_hooks_that_the_readme_shows_can_be_read(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert [hook.on for hook in actions(tmp_path, toml).hooks] == [("active",), ("question", "turn_ended")]


def test_the_readme_names_every_cause() -> None:
    text = README.read_text()
    assert [cause for cause in Cause if f"`{cause}`" not in text] == []
