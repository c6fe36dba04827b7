"""Lists of tables that plugins declare: at the top of the file if core gives them that place, else in their table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from relaykit.errors import SettingsError
from relaykit.settings import Where, describe, setting
from support.plugin_sites import settings_from
from support.settings_tables import wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One table of a list, which knows its place."""

    name: str = setting(help="a name")
    size: int = setting(1, help="a size")
    where: Where = Where()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must be 0 or more")
        if self.name == "nobody":
            raise self.where.wrong("name", "nobody is no name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Things:
    """``[plugins.x]``, with a list in it."""

    limit: int = setting(9, help="a limit")
    things: tuple[Thing, ...] = setting((), help="a list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Actions:
    """``[plugins.actions]``, whose list is at the top."""

    limit: int = setting(9, help="a limit")
    hooks: tuple[Thing, ...] = setting((), help="a list")


TOP = """
[plugins.actions]
limit = 3

[[hooks]]
name = "a"

[[ hooks ]] # the second
name = "b"
size = 2
"""


def test_a_list_at_the_top_is_its_plugins(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, TOP)
    actions = settings.plugin("actions", Actions)
    assert actions.limit == 3
    assert [(thing.name, thing.size, thing.where.table) for thing in actions.hooks] == [
        ("a", 1, "hooks[1]"),
        ("b", 2, "hooks[2]"),
    ]
    assert actions.hooks[1].where.origin == f"{tmp_path / 'relaykit.toml'}:8"
    assert settings.names_plugin("actions")
    assert not settings_from(tmp_path, "").names_plugin("actions")


def test_a_list_in_its_plugins_table(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, '[[plugins.x.things]]\nname = "a"\n[[plugins.x.things]]\nname = "b"\n')
    things = settings.plugin("x", Things).things
    assert [(thing.name, thing.where.table) for thing in things] == [
        ("a", "plugins.x.things[1]"),
        ("b", "plugins.x.things[2]"),
    ]
    assert settings_from(tmp_path, "").plugin("x", Things).things == ()


def test_lists_are_described(tmp_path: Path) -> None:
    plugins: dict[str, type] = {"actions": Actions, "x": Things}
    rows = {row.key: row for row in describe(settings_from(tmp_path, TOP), plugins)}
    assert (rows["hooks[2].size"].value, rows["hooks[2].size"].owner) == ("2", "actions")
    assert rows["plugins.x.things[N].size"].default == "1"
    assert not any(key.endswith(("where", "hooks", "things")) for key in rows)
    unset = {row.key for row in describe(settings_from(tmp_path, ""), plugins)}
    assert {"hooks[N].name", "hooks[N].size", "plugins.actions.limit"} <= unset


@pytest.mark.parametrize(
    ("toml", "key", "line", "said"),
    [
        ('[[hooks]]\nname = "a"\n\n[[hooks]]\nnam = "b"', "hooks[2].nam", ":4", "did you mean 'name'?"),
        ("[[hooks]]\nsize = 1", "hooks[1].name", ":1", "it is required"),
        ('[[hooks]]\nname = "a"\nsize = "b"', "hooks[1].size", ":1", "expected an integer"),
        ('[[hooks]]\nname = "a"\nsize = -1', "hooks[1]", ":1", "0 or more"),
        ('[[hooks]]\nname = "nobody"', "hooks[1].name", ":1", "nobody is no name"),
        ('hooks = [{ name = "nobody" }]', "hooks[1].name", "", "nobody is no name"),
        ('[[hooks]]\nname = """\n[[hooks]]\n"""\nsize = -1', "hooks[1]", "", "0 or more"),
        ('[hooks]\nname = "a"', "hooks", "", "expected tables, each under [[hooks]]"),
        ("hooks = 1", "hooks", "", "found an integer"),
        ('[[plugins.actions.hooks]]\nname = "a"', "plugins.actions.hooks", "", "write it as [[hooks]]"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    tmp_path: Path, toml: str, key: str, line: str, said: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        settings_from(tmp_path, toml).plugin("actions", Actions)
    assert (raised.value.key, raised.value.origin) == (key, f"{tmp_path / 'relaykit.toml'}{line}")
    assert said in str(raised.value)


def test_what_is_wrong_in_a_plugins_table_is_told_with_its_place(tmp_path: Path) -> None:
    error = wrong(tmp_path, '[[plugins.x.things]]\nname = "a"\nsise = 1', cls=Things)
    assert error.key == "plugins.x.things[1].sise"
    error = wrong(tmp_path, "[plugins.x.things]\nname = 'a'", cls=Things)
    assert "each under [[plugins.x.things]]" in str(error)
    error = wrong(tmp_path, "[[hook]]\nname = 'a'")
    assert "did you mean 'hooks'?" in str(error)


@pytest.mark.parametrize(
    ("variable", "cls", "said"),
    [
        ("RELAYKIT_HOOKS__NAME", None, "[[hooks]] is a list of tables"),
        ("RELAYKIT_PLUGINS__X__THINGS", Things, "[[plugins.x.things]] is a list of tables"),
    ],
)
def test_variables_cannot_set_lists(tmp_path: Path, variable: str, cls: type | None, said: str) -> None:
    error = wrong(tmp_path, cls=cls, environ={variable: "[]"})
    assert error.origin == variable
    assert said in str(error)


def test_a_list_wants_its_plugin_installed(tmp_path: Path) -> None:
    settings = settings_from(tmp_path, TOP.replace("[plugins.actions]\nlimit = 3", ""))
    settings.check_plugins(["actions"])
    with pytest.raises(
        SettingsError, match=r"hooks: it is for the plugin 'actions'.*pip install relaykit-actions"
    ):
        settings.check_plugins(["gateway"])
