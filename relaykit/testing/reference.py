"""Reference tables of a README, from the objects: ``python -m relaykit.testing.reference README.md …``.

What stands between two marks of a Markdown file, each on a line of its own, is written anew. There are four kinds:

``<!-- settings: [plugins.NAME] -->`` … ``<!-- /settings -->``
    the keys of a table. So are ``[relay]``, ``[projects.NAME]``, ``[agents.NAME]`` and ``[[permissions]]``, and every
    other list of tables that a plugin declares.
``<!-- hooks: NAME -->`` … ``<!-- /hooks -->``
    the hooks that an installed plugin implements, with the first line of each docstring.
``<!-- hooks -->`` … ``<!-- /hooks -->``
    all hooks that there are.
``<!-- metrics: package.module -->`` … ``<!-- /metrics -->``
    every `Figure` that is declared in that module.

Those of a plugin whose hooks depend on the environment are those of the environment now. A test keeps them from going
stale::

    def test_the_readme_says_what_the_objects_say() -> None:
        assert with_tables(README.read_text()) == README.read_text()
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

from relaykit.errors import RelaykitError, did_you_mean
from relaykit.hooks import specs
from relaykit.hooks.loader import load_plugins
from relaykit.hooks.plugin_set import PluginSet
from relaykit.meter import Figure
from relaykit.settings import (
    AgentSettings,
    PermissionRule,
    ProjectSettings,
    RelaySettings,
    Where,
    load_settings,
)
from relaykit.settings.kinds import table_of, to_toml
from relaykit.settings.lists import LISTS

_BLOCK = re.compile(
    r"^(?P<begin><!-- (?P<kind>settings|hooks|metrics)(?:: (?P<subject>\S+))? -->\n).*?^(?P<end><!-- /(?P=kind) -->)",
    re.DOTALL | re.MULTILINE,
)
_MARK = re.compile(r"^<!-- /?(?:settings|hooks|metrics)(?:: \S+)? -->", re.MULTILINE)

_CORE = {
    "[relay]": RelaySettings,
    "[projects.NAME]": ProjectSettings,
    "[agents.NAME]": AgentSettings,
    "[[permissions]]": PermissionRule,
}


def with_tables(text: str) -> str:
    """Return a Markdown text whose marked tables are those of the plugins that are installed here.

    :raises RelaykitError: a mark names what there is not, or has no other half.
    """
    plugins = _installed()
    tables = _tables(plugins.settings_types())

    def renewed(block: re.Match[str]) -> str:
        kind, subject = block["kind"], block["subject"]
        if kind == "settings":
            rows = _settings(_found("settings", subject or "", tables))
        elif kind == "metrics":
            rows = _metrics(subject or "")
        elif subject is None:
            rows = _all_hooks()
        else:
            names = {record.name: record.hooks for record in plugins.records}
            rows = _hooks_of(subject, _found("plugin", subject, names), plugins)
        return f"{block['begin']}{markdown_table(rows)}\n{block['end']}"

    if len(_MARK.findall(text)) != 2 * len(_BLOCK.findall(text)):
        raise RelaykitError("a mark of settings, hooks or metrics has no other half")
    return _BLOCK.sub(renewed, text)


def _installed() -> PluginSet:
    with TemporaryDirectory() as scratch:
        directory = Path(scratch)
        return load_plugins(load_settings(environ={"HOME": scratch}, cwd=directory))


def _tables(plugins: Mapping[str, type]) -> Mapping[str, type]:
    """Return the dataclass of every table, by its header."""
    tables = dict(_CORE)
    for name, cls in plugins.items():
        tables[f"[plugins.{name}]"] = cls
        hints = get_type_hints(cls)
        for key in fields(cls):
            if (table := table_of(hints[key.name])) is not None:
                top = LISTS.get(key.name) == ("plugins", name)
                tables[f"[[{key.name}]]" if top else f"[[plugins.{name}.{key.name}]]"] = table
    return tables


def _found(what: str, subject: str, known: Mapping[str, Any]) -> Any:
    if subject not in known:
        raise RelaykitError(
            f"there is no {what} {subject!r}{did_you_mean(subject, known)}; there are: {', '.join(known)}"
        )
    return known[subject]


Row = Sequence[str]


def _settings(cls: type) -> Iterator[Row]:
    yield ("key", "default", "meaning")
    hints = get_type_hints(cls)
    for key in fields(cls):
        if hints[key.name] is not Where and table_of(hints[key.name]) is None:
            yield (f"`{key.name}`", _default(key), key.metadata["help"])


def _default(key: Field[Any]) -> str:
    value = key.default
    if value is MISSING and key.default_factory is MISSING:
        return "required"
    if value is MISSING and key.default_factory is not MISSING:
        value = key.default_factory()
    return "none" if value is None else f"`{to_toml(value)}`"


def _all_hooks() -> Iterator[Row]:
    yield ("hook", "argument", "when")
    for name, spec in vars(specs).items():
        if name.startswith("relaykit_"):
            arguments = ", ".join(f"`{argument}`" for argument in inspect.signature(spec).parameters)
            yield (f"`{name}`", arguments or "none", _first_line(spec))


def _hooks_of(plugin: str, hooks: Sequence[str], plugins: PluginSet) -> Iterator[Row]:
    yield ("hook", "what it does there")
    for hook in hooks:
        for found in plugins.implementations(hook):
            if found.plugin == plugin:
                yield (f"`{hook}`", _first_line(found.function))


def _metrics(module: str) -> Iterator[Row]:
    yield ("metric", "kind", "labels", "what it says")
    try:
        declared = vars(import_module(module)).values()
    except (ImportError, ValueError) as error:
        raise RelaykitError(f"there is no module {module!r} with metrics: {error}") from error
    for figure in declared:
        if isinstance(figure, Figure):
            kind = f"{figure.kind}, {figure.unit}" if figure.unit else figure.kind
            yield (f"`{figure.name}`", kind, labels_of(figure), figure.help)


def _first_line(function: object) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].replace("``", "`")


def labels_of(figure: Figure) -> str:
    """Return a figure's labels and their values, for a cell of a table."""
    return "; ".join(
        f"`{label}`: {', '.join(values)}" if values else f"`{label}`"
        for label, values in figure.labels.items()
    )


def markdown_table(rows: Iterable[Row]) -> str:
    """Return rows as a table in Markdown; the first is its head."""
    head, *body = rows
    lines = [f"| {' | '.join(_escaped(row))} |" for row in (head, *body)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _escaped(row: Row) -> Row:
    return [cell.replace("|", "\\|") for cell in row]


def main() -> None:
    """Write the tables of these files anew.

    :raises SystemExit: a file cannot be read or written, or a mark is wrong; it says which.
    """
    for name in sys.argv[1:]:
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
            path.write_text(with_tables(text), encoding="utf-8")
        except (OSError, RelaykitError) as error:
            raise SystemExit(f"{name}: {error}") from error


if __name__ == "__main__":
    main()
