"""The rules of the architecture that a test can hold."""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaykit.meter import SESSION_TRANSITIONS
from relaykit.session import Event

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "relaykit"
PLUGINS = sorted(path for path in (ROOT / "plugins").glob("*/relaykit_*") if path.is_dir())
PLUGIN_NAMES = {path.name for path in PLUGINS}

LAYERS = [
    {"errors", "clock", "ids", "meter", "tasks", "process", "orphans", "environment", "file_lock"},
    {"session"},
    {"agent", "conversation"},
    {"settings", "kinds", "sources"},
    {"hooks"},
    {"relay"},
    {"commands", "client", "__main__", "__init__"},
]
"""Each imports from its own layer and those before it. `testing` stands beside them: nothing imports it."""

RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def sources(*folders: Path) -> list[Path]:
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts
    )


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that the file imports when it runs, wherever it does."""
    for node in run_time_nodes(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{label(path)}:{node.lineno}: a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below this one, but for those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield from run_time_nodes(other)
            continue
        yield child
        yield from run_time_nodes(child)


def imported_packages(path: Path) -> set[str]:
    return {module.split(".", 1)[0] for module in imports(path)}


def part(module: str) -> str | None:
    """Return the part of the core that a dotted name is of: ``session`` for ``relaykit.session.model.Session``."""
    first, _, rest = module.partition(".")
    if first != "relaykit":
        return None
    name = rest.split(".", 1)[0]
    return name if (CORE / name).is_dir() or (CORE / f"{name}.py").is_file() else "__init__"


def test_the_rules_see_an_import_that_breaks_them(tmp_path: Path) -> None:
    """Were the parsing wrong, everything below would pass."""
    file = tmp_path / "x.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "import relaykit.hooks.specs\n"
        "if TYPE_CHECKING:\n    from relaykit.relay import Relay\n"
        "def f():\n    from relaykit import session\n    import pluggy\n"
    )
    found = list(imports(file))
    assert found == ["typing.TYPE_CHECKING", "relaykit.hooks.specs", "relaykit.session", "pluggy"]
    assert [part(name) for name in found] == [None, "hooks", "session", None]
    assert part("relaykit.clock.Clock") == "clock"
    assert imported_packages(file) == {"typing", "relaykit", "pluggy"}
    assert len(sources(CORE)) > 20
    assert len(PLUGINS) >= 4


def test_imports_flow_one_way() -> None:
    wrong: list[str] = []
    for path in sources(CORE):
        own = path.relative_to(CORE).parts[0].removesuffix(".py")
        if own == "testing":
            continue
        assert own in RANKS, f"{own!r} has no layer: give it one in LAYERS"
        imported = {name for module in imports(path) if (name := part(module)) is not None}
        above = [name for name in sorted(imported) if name == "testing" or RANKS[name] > RANKS[own]]
        wrong += [f"{label(path)} imports {name}" for name in above]
    assert not wrong


def test_core_imports_its_dependencies_alone_and_so_no_plugin() -> None:
    allowed = {"relaykit", "anyio", "pluggy", *sys.stdlib_module_names}
    # For test suites, and imported by them alone.
    contracts = {*(CORE / "testing").glob("*_contract.py"), CORE / "testing" / "fixtures.py"}
    foreign = {
        label(path): imported_packages(path) - (allowed | {"pytest"} if path in contracts else allowed)
        for path in sources(CORE)
    }
    assert {path: names for path, names in foreign.items() if names} == {}


def test_core_depends_on_anyio_and_pluggy_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {requirement.split(">")[0] for requirement in project["dependencies"]} == {"anyio", "pluggy"}


@pytest.mark.parametrize("plugin", PLUGINS, ids=label)
def test_no_plugin_imports_another(plugin: Path) -> None:
    others = {path.name for path in PLUGINS} - {plugin.name}
    assert [label(path) for path in sources(plugin) if imported_packages(path) & others] == []


def test_only_hooks_knows_pluggy() -> None:
    knowing = {path for path in sources(CORE, *PLUGINS) if "pluggy" in imported_packages(path)}
    assert knowing
    assert [label(path) for path in sorted(knowing) if CORE / "hooks" not in path.parents] == []


def test_every_package_is_typed() -> None:
    assert [label(package) for package in (CORE, *PLUGINS) if not (package / "py.typed").is_file()] == []


def package_names() -> list[str]:
    inits = [path for path in sources(CORE) if path.name == "__init__.py"]
    return [".".join(path.parent.relative_to(ROOT).parts) for path in inits]


@pytest.mark.parametrize("name", package_names())
def test_exported_names(name: str) -> None:
    """`__all__` is sorted, importable, and leaves out nothing of the package's own."""
    package = importlib.import_module(name)
    exported = list(getattr(package, "__all__", []))
    assert exported == sorted(set(exported), key=rank)
    assert [missing for missing in exported if not hasattr(package, missing)] == []
    assert package.__file__ is not None
    assert own_names(Path(package.__file__), name) <= set(exported)


def rank(name: str) -> tuple[int, str]:
    """Sort as ruff does: constants, then classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def own_names(init: Path, package: str) -> set[str]:
    """Return the public names that the file binds: what it defines, and what it imports from its own modules."""
    bound: set[str] = set()
    for node in ast.parse(init.read_bytes()).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.startswith(f"{package}."):
                bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            bound.add(node.target.id)
    return {name for name in bound if not name.startswith("_")}


def test_a_file_is_read_in_one_sitting() -> None:
    files = [path for path in sources(CORE, ROOT / "plugins", ROOT / "examples") if "tests" not in path.parts]
    lengths = {label(path): len(path.read_text().splitlines()) for path in files}
    lengths.pop("relaykit/errors.py")  # one tree, drawn at its top and looked up rather than read
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_figures_of_transitions_name_every_event() -> None:
    assert set(SESSION_TRANSITIONS.labels) == {"event", "outcome"}
    assert list(SESSION_TRANSITIONS.labels["event"]) == ["CREATE", *Event]
