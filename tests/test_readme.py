"""The README is held to the code."""

import re
from pathlib import Path

from relaykit.agent import ToolUse
from relaykit.relay.permission_rules import Scene, rule_on
from support.plugin_sites import settings_from

README = Path(__file__).parent.parent / "README.md"


def test_the_walkthrough_is_the_example_that_the_tests_run() -> None:
    (code,) = re.findall(r"```python\n(import anyio.*?)```", README.read_text(), re.DOTALL)
    example = (README.parent / "examples" / "walkthrough.py").read_text()
    assert code in example


def test_the_rules_decide_as_their_comments_say(tmp_path: Path) -> None:
    (toml,) = re.findall(r"```toml\n(\[\[permissions\]\].*?)```", README.read_text(), re.DOTALL)
    projects = f'[projects.shop]\npath = "{tmp_path}"\n[projects.playground]\npath = "{tmp_path}"\n'
    rules = settings_from(tmp_path, toml + projects).permissions

    def decides(kind: str, *paths: str, project: str = "shop") -> str:
        use = ToolUse(kind, tuple(f"{tmp_path}/{path}" for path in paths))
        ruling = rule_on(rules, use, Scene("claude", project, str(tmp_path)))
        return "ask" if ruling is None else str(ruling.rule.action)

    assert decides("edit", "src/.env") == "reject"
    assert decides("edit", "src/a.py") == "allow"
    assert decides("edit", "README.md") == "ask"
    assert decides("read", "README.md", "src/a.py") == "allow"
    assert decides("execute") == "ask"
    assert decides("execute", project="playground") == "allow"
