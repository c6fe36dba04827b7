from __future__ import annotations

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relaykit.settings import RelaySettings, SettingRow, Settings, describe
from relaykit.settings.kinds import to_toml
from support.plugin_sites import settings_from
from support.settings_tables import Colour, Everything, Guarded, everything, wrong


def rows_of(settings: Settings, **plugins: type) -> dict[str, SettingRow]:
    return {row.key: row for row in describe(settings, plugins)}


def test_every_key_is_described(tmp_path: Path) -> None:
    toml = "[relay]\nnode = 'n1'\n[projects.shop]\npath = 'shop'\n[plugins.x]\nlow = 3"
    settings = settings_from(tmp_path, toml, environ={"RELAYKIT_PLUGINS__X__HIGH": "7"})
    rows = rows_of(settings, x=Guarded)
    file = str(tmp_path / "relaykit.toml")
    assert {key for key in rows if key.startswith("relay.")} == {
        f"relay.{f.name}" for f in fields(RelaySettings)
    }
    assert rows["relay.node"] == SettingRow(
        key="relay.node",
        type="string",
        value='"n1"',
        default='"local"',
        origin=file,
        owner="relaykit",
        help="this relay's name among several",
    )
    assert rows["relay.state_dir"].value == f'"{settings.state_dir}"'
    assert rows["projects.shop.path"].value == f'"{tmp_path / "shop"}"'
    assert (rows["plugins.x.low"].value, rows["plugins.x.low"].origin) == ("3", file)
    assert (rows["plugins.x.high"].value, rows["plugins.x.high"].origin) == ("7", "RELAYKIT_PLUGINS__X__HIGH")
    assert rows["plugins.x.high"].owner == "x"
    assert rows["agents.NAME.launcher"].default == '"acp"'
    assert rows["agents.NAME.command"].value == ""


def test_types_are_named(tmp_path: Path) -> None:
    rows = rows_of(settings_from(tmp_path), x=Everything)
    assert {key.removeprefix("plugins.x."): row.type for key, row in rows.items() if row.owner == "x"} == {
        "text": "string",
        "whole": "integer",
        "number": "number",
        "flag": "true or false",
        "path": "path",
        "names": "list of strings",
        "labels": "table of strings",
        "maybe": "string",
        "maybe_whole": "integer",
        "maybe_names": "list of strings",
        "mode": "one of 'fast', 'safe'",
        "colour": "one of 'red', 'dark-blue'",
    }


def test_secrets_are_masked_wherever_they_could_show(tmp_path: Path) -> None:
    toml = "[plugins.x]\ntokens = { a = 'hunter2' }\npin = 4711"
    settings = settings_from(tmp_path, toml, environ={"RELAYKIT_PLUGINS__X__TOKEN": "hunter2"})
    rows = describe(settings, {"x": Guarded})
    shown = {row.key: (row.value, row.default) for row in rows}
    assert shown["plugins.x.token"] == ("***", "***")
    assert shown["plugins.x.pin"][0] == "***"
    everything_said = f"{rows!r} {settings!r} {settings.plugin('x', Guarded)!r}"
    for secret in ("hunter2", "4711", "built-in"):
        assert secret not in everything_said
    for wrong_toml in ("pin = 'hunter2'", "token = 4711", "tokens = ['hunter2']"):
        error = wrong(tmp_path, f"[plugins.x]\n{wrong_toml}", cls=Guarded)
        assert "hunter2" not in str(error)
        assert "4711" not in str(error)
    error = wrong(tmp_path, cls=Guarded, environ={"RELAYKIT_PLUGINS__X__PIN": "hunter2"})
    assert "expected an integer" in str(error)
    assert "hunter2" not in str(error)


# ---------------------------------------------------------------- there and back

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.builds(
    Everything,
    text=TEXT,
    whole=st.integers(-(2**63), 2**63 - 1),
    number=st.floats(allow_nan=False),
    flag=st.booleans(),
    path=TEXT.map(lambda text: Path("/", text.replace("\0", ""))),
    names=st.lists(TEXT).map(tuple),
    labels=st.dictionaries(TEXT, TEXT),
    maybe=st.none() | TEXT,
    maybe_whole=st.none() | st.integers(-9, 9),
    maybe_names=st.none() | st.lists(TEXT).map(tuple),
    mode=st.sampled_from(["fast", "safe"]),
    colour=st.sampled_from(Colour),
)


def given_values(values: Everything) -> dict[str, Any]:
    return {f.name: value for f in fields(values) if (value := getattr(values, f.name)) is not None}


@given(VALUES)
def test_values_survive_toml(values: Everything) -> None:
    lines = [f"{name} = {to_toml(value)}" for name, value in given_values(values).items()]
    with tempfile.TemporaryDirectory() as directory:
        assert everything(Path(directory), "\n".join(["[plugins.x]", *lines])) == values


@given(VALUES)
def test_values_survive_the_environment(values: Everything) -> None:
    plain = (str, Path)
    environ = {
        f"RELAYKIT_PLUGINS__X__{name.upper()}": str(value) if isinstance(value, plain) else to_toml(value)
        for name, value in given_values(values).items()
    }
    with tempfile.TemporaryDirectory() as directory:
        assert everything(Path(directory), **environ) == values
