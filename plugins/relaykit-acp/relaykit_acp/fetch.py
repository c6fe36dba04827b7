"""Fetching the npm package that an agent is in, before the agent is started."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio
import msgspec
from anyio import to_thread

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import FetchFailed
from relaykit.ids import IdGenerator
from relaykit_acp.environment import child_environment, marker
from relaykit_acp.errand import Outcome, run_errand
from relaykit_acp.household import Household
from relaykit_acp.mask import mask_of
from relaykit_acp.npx import NpxCommand
from relaykit_acp.scratch import empty_directory
from relaykit_acp.shared import Shared

logger = logging.getLogger(__name__)


class Fetcher:
    """Has npx fetch packages, each once however many sessions want it, and finds the programs in them.

    The program is then started by its path, and no longer by npx: npx would ask the registry again at each start,
    and in a session's directory it takes packages and settings from there.

    :param directory: where npx runs, so that it finds nothing there; private to this user.
    :param seconds: what a fetch may take.
    :param node: the relay's name.
    """

    def __init__(
        self, household: Household, *, ids: IdGenerator, node: str, directory: Path | None, seconds: float
    ) -> None:
        self._household = household
        self._ids = ids
        self._node = node
        self._directory = directory
        self._seconds = seconds
        self._programs: dict[tuple[object, ...], Shared[Path]] = {}

    async def program(self, command: NpxCommand, spec: AgentSpec, environment: Mapping[str, str]) -> Path:
        """Return the path of a command's program, fetching its package if that has not happened yet.

        :param environment: what of ours agents get.
        :raises FetchFailed: it says what npm said.
        :raises ProgramNotFound: there is no npx.
        """
        key = (command.npx, command.package, command.program, tuple(sorted(spec.env.items())))
        fetch = partial(self._fetch, command, spec, environment)
        fetched = self._programs.setdefault(key, Shared())
        program = await fetched.get(fetch)
        if await to_thread.run_sync(program.exists):
            return program
        if self._programs[key] is fetched:  # somebody has emptied npm's cache
            self._programs[key] = Shared()
        return await self._programs[key].get(fetch)

    async def _fetch(self, command: NpxCommand, spec: AgentSpec, environment: Mapping[str, str]) -> Path:
        package = command.package
        logger.info(
            "agent %r: %s comes through npx, which fetches it now if it is not here; that takes a while, at most %g s",
            spec.name,
            package,
            self._seconds,
        )
        name = f"fetch-{self._ids.new_id()}"
        async with empty_directory(self._directory) as directory:
            await anyio.Path(directory / "package.json").write_text("{}")  # npm looks for one, upwards
            outcome = await run_errand(
                # In the shell that npx starts, PATH begins with the directory of the package's programs.
                (command.npx, "--yes", "--package", package, "-c", 'printf %s "$PATH"'),
                self._household,
                seconds=self._seconds,
                environment=child_environment(
                    environment, granted=spec.env, session_id=name, node=self._node
                ),
                cwd=directory,
                agent=spec.name,
                label=f"fetch of {package}",
                marker=marker(name),
                mask=mask_of(spec),
            )
        self._check(outcome, package, spec.name)
        found = await to_thread.run_sync(_find_program, os.fsdecode(outcome.said), command)
        if found is None:
            wanted = command.program or "that can be told without `--package`"
            raise FetchFailed(package, f"it has no program {wanted}", agent=spec.name, said=outcome.stderr)
        logger.info("agent %r: %s is here: %s", spec.name, package, found)
        return found

    def _check(self, outcome: Outcome, package: str, agent: str) -> None:
        if outcome.exit_code is None:
            why = f"it took longer than {self._seconds:g} s (`fetch_timeout` in [plugins.acp])"
        elif outcome.exit_code:
            why = f"it exited with {outcome.exit_code}"
        else:
            return
        raise FetchFailed(package, why, agent=agent, said=outcome.stderr)


class _Package(msgspec.Struct):
    """What ``package.json`` says of a package's programs: their files by name, or the file of the only one."""

    bin: dict[str, str] | str = {}


def _find_program(path: str, command: NpxCommand) -> Path | None:
    """Return the command's program in the first directory of `path` that belongs to its package."""
    for directory in map(Path, path.split(os.pathsep)):
        description = directory.parent / command.name / "package.json"
        if directory.name == ".bin" and description.is_file():
            package = msgspec.json.decode(description.read_bytes(), type=_Package)
            name = command.program or _chosen_program(package, command)
            program = directory / name if name else None
            return program if program is not None and program.exists() else None
    return None


def _chosen_program(package: _Package, command: NpxCommand) -> str | None:
    """Return the name of the program that npx would choose (libnpmexec's get-bin-from-manifest.js)."""
    if isinstance(package.bin, str):
        return command.short_name
    if len(set(package.bin.values())) == 1:
        return next(iter(package.bin))
    return command.short_name if command.short_name in package.bin else None
