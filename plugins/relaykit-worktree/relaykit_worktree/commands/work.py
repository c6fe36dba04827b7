"""``relaykit diff``, ``commit``, ``push`` and ``apply``: what a session has done, and where it is to go."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from relaykit.hooks.registration import Command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from relaykit.commands.invocation import Invocation
    from relaykit_worktree.work import Work

FAILED = 1


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id", metavar="ID", help="the session's id, or its beginning; or its role, where one project has it"
    )
    parser.add_argument("--project", metavar="NAME", help="look in this project alone")


def _configure_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", metavar="REVISION", help="where the work began; by default what the role's branch began at"
    )


def _configure_diff(parser: argparse.ArgumentParser) -> None:
    _configure(parser)
    _configure_base(parser)
    parser.add_argument("paths", metavar="PATH", nargs="*", help="only these, seen from the worktree's root")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--stat", action="store_true", help="only how much has changed in which file")
    how.add_argument("--name-only", action="store_true", help="only the names of what has changed")


def _configure_commit(parser: argparse.ArgumentParser) -> None:
    _configure(parser)
    parser.add_argument("-m", "--message", metavar="TEXT", help="what to write; by default git asks for it")
    parser.add_argument("--no-verify", action="store_true", help="do not run the repository's commit hooks")


def _configure_push(parser: argparse.ArgumentParser) -> None:
    _configure(parser)
    parser.add_argument("--remote", metavar="NAME", help="where to; by default as `git push` would choose")
    parser.add_argument("--to", metavar="BRANCH", help="the branch there; by default as it is called here")


def _configure_apply(parser: argparse.ArgumentParser) -> None:
    _configure(parser)
    _configure_base(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="only tell whether it can be applied")
    how.add_argument(
        "--3way",
        dest="three_way",
        action="store_true",
        help="where both have changed a file, merge, and leave what cannot be merged marked as a conflict",
    )


def _diff(work: Work, arguments: argparse.Namespace) -> int:
    from relaykit_worktree.work import differences

    how = ["--stat"] if arguments.stat else ["--name-only"] if arguments.name_only else []
    return differences(work, base=arguments.base, how=how, paths=arguments.paths)


def _commit(work: Work, arguments: argparse.Namespace) -> int:
    from relaykit_worktree.work import commit

    return commit(work, message=arguments.message, verify=not arguments.no_verify)


def _push(work: Work, arguments: argparse.Namespace) -> int:
    from relaykit_worktree.work import push, uncommitted

    if left := uncommitted(work):
        sys.stderr.write(
            f"relaykit: not pushed, because not committed: {left}; `relaykit commit` does that\n"
        )
    return push(work, remote=arguments.remote, to=arguments.to)


def _apply(work: Work, arguments: argparse.Namespace) -> int:
    from relaykit_worktree.applying import apply

    paths = apply(work, base=arguments.base, check=arguments.check, three_way=arguments.three_way)
    done = "can be applied to" if arguments.check else "applied to"
    sys.stdout.write(
        f"{len(paths)} changed {'file' if len(paths) == 1 else 'files'} {done} {work.checkout}\n"
    )
    return 0


def _on_work(do: Callable[[Work, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        import anyio

        from relaykit.errors import WorkspaceError
        from relaykit_worktree.git import Git
        from relaykit_worktree.settings import WorktreeSettings
        from relaykit_worktree.work import find_work

        settings = cast("Invocation", arguments).load_settings()
        own = settings.plugin("worktree", WorktreeSettings)
        projects = {name: project.path for name, project in settings.projects.items()}
        try:
            if arguments.project is not None:
                if arguments.project not in projects:
                    raise WorkspaceError(
                        f"there is no project {arguments.project!r}; there are {', '.join(sorted(projects))}"
                    )
                projects = {arguments.project: projects[arguments.project]}
            work = anyio.run(find_work, Git(own.git_timeout), projects, arguments.id)
            return do(work, arguments)
        except WorkspaceError as error:
            sys.stderr.write(f"relaykit: {error}\n")
            return FAILED

    return run


DIFF = Command(
    name="diff",
    help="show what a session has changed since it began, new files and uncommitted changes too",
    configure=_configure_diff,
    run=_on_work(_diff),
)
COMMIT = Command(
    name="commit",
    help="commit everything that a session has changed to its branch",
    configure=_configure_commit,
    run=_on_work(_commit),
)
PUSH = Command(
    name="push",
    help="push a session's branch; never by force",
    configure=_configure_push,
    run=_on_work(_push),
)
APPLY = Command(
    name="apply",
    help="bring a session's changes, committed or not, into the project's own checkout; refused where that would "
    "overwrite something",
    configure=_configure_apply,
    run=_on_work(_apply),
)
