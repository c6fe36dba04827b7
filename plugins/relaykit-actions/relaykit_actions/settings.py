"""What can be set: ``[[hooks]]``, and ``[plugins.actions]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from relaykit.errors import did_you_mean
from relaykit.session import Cause
from relaykit.settings import MASK, Where, setting
from relaykit_actions.happenings import EVENTS, Happening
from relaykit_actions.template import Template

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST = re.compile(r"[^\s<>\"\\^`|]+")
"""What no host has is left out: the library would escape it, and nobody has that name."""
_FILTERS = {"agent": "agent", "role": "agent_id", "project": "project", "cause": "cause"}
"""Each filter, and the field that it looks at."""


def _host_alone(url: str | None) -> str | None:
    """Return what may be shown of a URL: its path is often a secret."""
    return url and f"{urlsplit(url).scheme}://{urlsplit(url).hostname}/{MASK}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSettings:
    """One table of ``[[hooks]]``: it is for what has everything that it names."""

    on: tuple[str, ...] = setting(help="the events that it is for")
    agent: str | None = setting(None, help="only sessions with this agent")
    role: str | None = setting(None, help="only roles (`agent_id`) like this: `*` and `?` as in the shell")
    project: str | None = setting(None, help="only sessions of this project")
    cause: tuple[str, ...] = setting(
        (), help=f"only ends of these causes: of {', '.join(f'`{cause}`' for cause in Cause)}"
    )
    run: tuple[str, ...] = setting((), help="program and arguments, which may have fields, as `{agent_id}`")
    env: tuple[str, ...] = setting((), help="names of environment variables to pass on to the program")
    post: str | None = setting(None, help="the URL to post to instead", shown=_host_alone)
    secret: str | None = setting(
        None, help="the name of the environment variable with the secret that signs what is posted"
    )
    allow_private: bool = setting(
        False, help="post also to addresses that are not on the public internet, and without TLS"
    )
    timeout: float = setting(10.0, help="seconds that the program, or one attempt to post, may take")
    where: Where = Where()

    def __post_init__(self) -> None:
        self._check_events()
        self._check_filters()
        if bool(self.run) is (self.post is not None):
            raise ValueError("it needs one of `run` and `post`, and not both")
        if self.run:
            self._check_run()
        else:
            self._check_post()
        if self.timeout <= 0:
            raise self.where.wrong("timeout", "it must be more than 0")

    def matches(self, happening: Happening) -> bool:
        """Tell whether this hook is for what has happened."""
        facts = happening.facts
        return (
            happening.event in self.on
            and self.agent in {None, facts.get("agent")}
            and self.project in {None, facts.get("project")}
            and (self.role is None or fnmatchcase(str(facts.get("agent_id")), self.role))
            and (not self.cause or facts.get("cause") in self.cause)
        )

    def templates(self) -> tuple[Template, ...]:
        """Return the program's arguments.

        :raises ValueError: one is no template.
        """
        fields = set.intersection(*(set(EVENTS[event].fields) for event in self.on))
        return tuple(Template(argument, {*fields, "event", "at"}) for argument in self.run[1:])

    @property
    def url(self) -> SplitResult:
        """The parts of `post`.

        :raises ValueError: it is no URL.
        """
        return urlsplit(self.post or "")

    def _check_events(self) -> None:
        if not self.on:
            raise self.where.wrong("on", "it names no event")
        self._check_known("on", "event", self.on, EVENTS)

    def _check_filters(self) -> None:
        self._check_known("cause", "cause", self.cause, list(Cause))
        for key in ("agent", "role", "project"):
            if getattr(self, key) == "":
                raise self.where.wrong(key, "it is empty, and would never match: leave it out for any")
        for key, field in _FILTERS.items():
            without = [event for event in self.on if field not in EVENTS[event].fields]
            if getattr(self, key) and without:
                raise self.where.wrong(
                    key, f"{without[0]!r} has no {key}, and would never match: give it a hook of its own"
                )

    def _check_known(self, key: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
        known = tuple(known)
        for name in names:
            if name not in known:
                raise self.where.wrong(
                    key,
                    f"there is no {what} {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}",
                )

    def _check_run(self) -> None:
        if not self.run[0] or "{" in self.run[0]:
            raise self.where.wrong("run", "it must begin with the name of a program, which is no template")
        if any("\0" in argument for argument in self.run):
            raise self.where.wrong("run", "no program can be given a zero byte")
        try:
            self.templates()
        except ValueError as error:
            raise self.where.wrong("run", str(error)) from None
        if wrong := [name for name in self.env if _VARIABLE.fullmatch(name) is None]:
            raise self.where.wrong(
                "env",
                f"it lists names of variables, without values: {wrong[0].partition('=')[0]!r} is not one",
            )
        if self.secret is not None or self.allow_private:
            raise self.where.wrong(
                "secret" if self.secret is not None else "allow_private",
                "it is for `post`, and this hook runs",
            )

    def _check_post(self) -> None:
        if {"{", "}"} & set(self.post or ""):
            raise self.where.wrong("post", "it has braces: a URL has no fields, and what is posted says all")
        schemes = ("https", "http") if self.allow_private else ("https",)
        try:
            host = self.url.hostname or ""
            right = self.url.scheme in schemes and _HOST.fullmatch(host) and self.url.port != 0
        except ValueError:
            right = False
        if not right:
            more = "" if self.allow_private else "; http:// needs `allow_private = true`"
            raise self.where.wrong("post", f"it is not of the form https://host/path{more}")
        if "@" in self.url.netloc or self.url.fragment:
            raise self.where.wrong("post", "it must have no user, no password and no fragment")
        if self.env:
            raise self.where.wrong("env", "it is for `run`, and this hook posts")
        # A secret that was written here by mistake is not repeated.
        if self.secret is not None and (
            _VARIABLE.fullmatch(self.secret) is None or self.secret.startswith("whsec_")
        ):
            raise self.where.wrong("secret", "it must be the name of a variable, and never the secret itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionsSettings:
    """``[plugins.actions]``."""

    concurrency: int = setting(4, help="actions of one hook that may be under way at once")
    max_pending: int = setting(
        256, help="actions of one hook that may wait or be under way; what comes then is dropped"
    )
    retries: int = setting(8, help="how often a post that failed is tried again")
    shutdown_timeout: float = setting(
        5.0, help="seconds that actions have which are not done when the relay ends"
    )
    hooks: tuple[HookSettings, ...] = setting((), help="`[[hooks]]`")

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_pending"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        for name in ("retries", "shutdown_timeout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
