"""``[[hooks]]`` as they are written: what is wrong is told with its place, before anything happens."""

from __future__ import annotations

import re
from pathlib import Path

from relaykit.session import Cause
from relaykit_actions.settings import ActionsSettings
from support.plugin_sites import settings_from

README = Path(__file__).parents[1] / "README.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RUN = 'run = ["true"]'
POST = 'post = "https://example.com/hook/hush"'


def actions(directory: Path, toml: str, **environ: str) -> ActionsSettings:
    return settings_from(directory, toml, environ=environ).plugin("actions", ActionsSettings)


def test_the_hooks_that_the_readme_shows_can_be_read(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    assert [hook.on for hook in actions(tmp_path, toml).hooks] == [("active",), ("question", "turn_ended")]


def test_the_readme_names_every_cause() -> None:
    text = README.read_text()
    assert [cause for cause in Cause if f"`{cause}`" not in text] == []
