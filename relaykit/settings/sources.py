"""Where settings are written: the file, the environment, and how a dataclass is filled from both."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

from relaykit.errors import SettingsError, did_you_mean
from relaykit.settings.declaration import Where
from relaykit.settings.kinds import Place, WrongKind, describe_found, kind_of, table_of, to_toml
from relaykit.settings.lists import LISTS, lines_of, member, no_variable, place_in

T = TypeVar("T")

PREFIX = "RELAYKIT_"
SECTIONS: Mapping[str, int] = MappingProxyType({"relay": 1, "projects": 2, "agents": 2, "plugins": 2})
"""Every section, and of how many parts the name of a table in it is."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given.

    :param origin: the file, the environment variable or the option that says it.
    :param text: it comes from the environment, and is still to be parsed by its field's type.
    :param base: where relative paths begin.
    """

    value: object
    origin: str
    text: bool
    base: Path


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was said, before it is known what may be said.

    :param tables: the file, as TOML has it.
    :param given: what overrides the file, by its folded names: ``("relay", "storage")``.
    :param lines: at which line of the file each table of a list begins: ``hooks[2]``.
    """

    file: Path | None = None
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    given: Mapping[tuple[str, ...], Given] = field(default_factory=dict, repr=False)
    lines: Mapping[str, int] = field(default_factory=dict, repr=False)
    cwd: Path = Path()
    home: Path = Path()

    def names(self, section: str) -> Sequence[str]:
        """Return the names of a section's tables: those in the file first, then those of the environment alone.

        :raises SettingsError: the section is no table, or two names differ only in case or in ``-`` and ``_``.
        """
        by_fold: dict[str, str] = {}
        for name in self._table((section,)):
            if (other := by_fold.setdefault(fold(name), name)) != name:
                raise SettingsError(
                    f"{other!r} and {name!r} are one name in the environment: rename one of them",
                    key=section,
                    origin=str(self.file),
                )
        for path in self.given:
            if path[0] == section:
                by_fold.setdefault(path[1], path[1])
        return tuple(by_fold.values())

    def check_sections(self) -> None:
        """Raise a SettingsError for a table or a variable that belongs to no section, or for what should be a table."""
        known = (*SECTIONS, *LISTS)
        for name in self.tables:
            if name not in known:
                raise SettingsError(
                    f"there is no such table{did_you_mean(name, known)}; there are: {', '.join(known)}",
                    key=name,
                    origin=str(self.file),
                )
        for path, given in self.given.items():
            if path[0] in LISTS:
                raise no_variable(path, given.origin)
            if path[0] not in SECTIONS:
                near = did_you_mean(path[0], SECTIONS)
                raise SettingsError(
                    f"there is no such section{near}", key=".".join(path), origin=given.origin
                )
            if len(path) != SECTIONS[path[0]] + 1:
                parts = "__NAME__KEY" if SECTIONS[path[0]] > 1 else "__KEY"
                raise SettingsError(
                    f"its name must be {PREFIX}{path[0].upper()}{parts}",
                    key=".".join(path),
                    origin=given.origin,
                )

        for section, depth in SECTIONS.items():
            for name in self.names(section):
                if depth > 1:
                    self._table((section, name))

    def read(self, cls: type[T], path: tuple[str, ...]) -> T:
        """Return an instance of a settings dataclass, filled from the table at `path`.

        :raises SettingsError: a key is unknown, missing, or of the wrong kind, or the dataclass refused the whole.
        :raises TypeError: the dataclass has a field that settings cannot hold.
        """
        declared = _declared(cls)
        hints = get_type_hints(cls)
        self._check_keys(path, [name for name in declared if hints[name] is not Where])
        values: dict[str, Any] = {}
        for name, declaration in declared.items():
            if hints[name] is Where:
                values[name] = Where(".".join(path), self._origin(path))
                continue
            if (table := table_of(hints[name])) is not None:
                values[name] = tuple(self.read_list(table, (*path, name)))
                continue
            given = self.find(path, name)
            kind = kind_of(hints[name])
            if given is None:
                if declaration.default is MISSING and declaration.default_factory is MISSING:
                    raise self._missing(path, name)
                continue
            place = Place(given.base, self.home)
            try:
                values[name] = (
                    kind.take_text(str(given.value), place) if given.text else kind.take(given.value, place)
                )
            except WrongKind as wrong:
                raise SettingsError(
                    f"expected {wrong.expected}; found {_found(given, secret=is_secret(declaration))}",
                    key=".".join((*path, name)),
                    origin=given.origin,
                ) from None
        try:
            return cls(**values)
        except SettingsError:
            raise  # it says already where
        except ValueError as error:
            origins = dict.fromkeys(given.origin for name in declared if (given := self.find(path, name)))
            raise SettingsError(str(error), key=".".join(path), origin=", ".join(origins)) from error

    def read_list(self, cls: type[T], path: tuple[str, ...]) -> Sequence[T]:
        """Return an instance of a settings dataclass for each table of a list, in their order.

        :raises SettingsError: as `read`; the key is ``permissions[2]`` for the second.
        """
        if (given := self.given.get(tuple(map(fold, path)))) is not None:
            raise no_variable(path, given.origin)
        return [self.read(cls, place) for place in self.places(path)]

    def places(self, path: tuple[str, ...]) -> Sequence[tuple[str, ...]]:
        """Return the paths of a list's tables. A list of `LISTS` is at the top, whatever table has it as a key.

        :raises SettingsError: it is no list of tables.
        """
        above = () if LISTS.get(path[-1]) == path[:-1] else path[:-1]
        name = path[-1]
        tables = self._table(above).get(name, [])
        if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
            path = (*above, name)
            raise SettingsError(
                f"expected tables, each under [[{'.'.join(path)}]]; found {describe_found(tables)}",
                key=".".join(path),
                origin=str(self.file),
            )
        return [(*above, place_in(name, number)) for number in range(1, len(tables) + 1)]

    def find(self, path: tuple[str, ...], name: str) -> Given | None:
        """Return what was said for a key, or None if nothing was."""
        given = self.given.get((*map(fold, path), fold(name)))
        if given is not None:
            return given
        table = self._table(path)
        if name not in table or self.file is None:
            return None
        return Given(table[name], self._origin(path), text=False, base=self.file.parent)

    def in_file(self, path: tuple[str, ...]) -> bool:
        """Tell whether the file has this table."""
        return member(self._table(path[:-1]), path[-1]) is not None

    def names_table(self, path: tuple[str, ...]) -> bool:
        """Tell whether the file or the environment says anything about this table."""
        return bool(self.origin_of_table(path))

    def origin_of_table(self, path: tuple[str, ...]) -> str:
        """Return who first says anything about this table, or nothing."""
        if self.in_file(path) or any(
            table == path and name in self.tables for name, table in LISTS.items() if table
        ):
            return self._origin(path)
        folded = tuple(map(fold, path))
        return next((given.origin for key, given in self.given.items() if key[: len(path)] == folded), "")

    def overriding(self, path: tuple[str, ...], values: Mapping[str, object], origin: str) -> Sources:
        """Return sources in which these values of one table go before all others."""
        mine = {
            (*map(fold, path), fold(name)): Given(value, origin, text=False, base=self.cwd)
            for name, value in values.items()
        }
        return replace(self, given={**self.given, **mine})

    def _table(self, path: tuple[str, ...]) -> Mapping[str, Any]:
        table: object = self.tables
        for depth, name in enumerate(path, 1):
            table = member(table, name) if isinstance(table, Mapping) else None
            table = _NOTHING if table is None else table
            if not isinstance(table, Mapping):
                raise SettingsError(
                    f"expected a table; found {describe_found(table)}",
                    key=".".join(path[:depth]),
                    origin=str(self.file),
                )
        return table if isinstance(table, Mapping) else _NOTHING

    def _origin(self, path: tuple[str, ...]) -> str:
        """Return the file, with the line at which a table of a list begins."""
        line = self.lines.get(path[0]) if path else None
        return f"{self.file}:{line}" if line else str(self.file or "")

    def _check_keys(self, path: tuple[str, ...], declared: Iterable[str]) -> None:
        known = tuple(name for name in declared if LISTS.get(name) != path)
        keys = f"; its keys: {', '.join(known)}" if known else "; it has no settings"
        for name in self._table(path):
            if name not in known:
                listed = LISTS.get(name) == path
                near = f": write it as [[{name}]]" if listed else f"{did_you_mean(name, known)}{keys}"
                raise SettingsError(
                    f"there is no such key{near}",
                    key=".".join((*path, name)),
                    origin=self._origin(path),
                )
        folded = tuple(map(fold, path))
        for given_path, given in self.given.items():
            if given_path[:-1] == folded and given_path[-1] not in map(fold, known):
                raise SettingsError(
                    f"there is no such key{did_you_mean(given_path[-1], known)}{keys}",
                    key=".".join((*path, given_path[-1])),
                    origin=given.origin,
                )

    def _missing(self, path: tuple[str, ...], name: str) -> SettingsError:
        variable = PREFIX + "__".join(fold(part).upper() for part in (*path, name))
        listed = path[-1].endswith("]")  # which no variable sets
        where = "" if listed else f": set it in [{'.'.join(path)}], or as {variable}"
        return SettingsError(
            f"it is required{where}",
            key=".".join((*path, name)),
            origin=self._origin(path),
        )


def read_sources(config: Path | None, *, environ: Mapping[str, str], cwd: Path) -> Sources:
    """Find and read the file, and pick the variables that are settings.

    :raises SettingsError: the file that was asked for is missing, or cannot be read.
    """
    home = Path(environ.get("HOME") or Path.home())
    file = _find_file(config, environ, cwd, home)
    text = _read(file) if file else ""
    tables = _parse(text, file) if file else _NOTHING
    return Sources(
        file=file,
        tables=tables,
        lines=lines_of(text, tables),
        given=_variables(environ, cwd),
        cwd=cwd,
        home=home,
    )


def user_directory(variable: str, fallback: str, *, environ: Mapping[str, str], home: Path) -> Path:
    """Return relaykit's part of one of the user's directories.

    As https://specifications.freedesktop.org/basedir-spec says: one that is not absolute is ignored.
    """
    configured = Path(environ.get(variable, ""))
    return (configured if configured.is_absolute() else home / fallback) / "relaykit"


def fold(name: str) -> str:
    """Return a name as environment variables know it: without case, and with ``_`` for ``-``."""
    return name.lower().replace("-", "_")


def is_secret(declaration: Field[Any]) -> bool:
    """Tell whether a field's value must never be shown."""
    return bool(declaration.metadata.get("secret"))


def _declared(cls: type) -> Mapping[str, Field[Any]]:
    return {declaration.name: declaration for declaration in fields(cls) if declaration.init}


def _find_file(config: Path | None, environ: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    if config is not None:
        return cwd / config
    if named := environ.get("RELAYKIT_CONFIG"):
        return cwd / (home / named[2:] if named.startswith("~/") else named)
    candidates = (
        cwd / "relaykit.toml",
        user_directory("XDG_CONFIG_HOME", ".config", environ=environ, home=home) / "relaykit.toml",
    )
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError("there is no such file", origin=str(file)) from None
    except OSError as error:
        raise SettingsError(f"it cannot be read: {error.strerror}", origin=str(file)) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"it is not UTF-8 text: {error.reason} at byte {error.start}", origin=str(file)
        ) from None


def _parse(text: str, file: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"it is not valid TOML: {error}", origin=str(file)) from None


def _variables(environ: Mapping[str, str], cwd: Path) -> Mapping[tuple[str, ...], Given]:
    found: dict[tuple[str, ...], Given] = {}
    for variable, text in environ.items():
        name = variable.upper()
        if not name.startswith(PREFIX) or "__" not in name.removeprefix(PREFIX):
            continue
        path = tuple(map(fold, name.removeprefix(PREFIX).split("__")))
        if (other := found.get(path)) is not None:
            raise SettingsError(f"{other.origin} sets the same key: unset one of them", origin=variable)
        found[path] = Given(text, variable, text=True, base=cwd)
    return found


def _found(given: Given, *, secret: bool) -> str:
    kind = "a text" if given.text else describe_found(given.value)
    if secret or not isinstance(given.value, str | int | float):
        return kind
    return f"{kind}, {to_toml(given.value)}"
