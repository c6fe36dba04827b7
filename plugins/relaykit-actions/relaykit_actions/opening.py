"""Makes hooks of what the settings say, and finds out what is wrong with them before anything happens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from relaykit.environment import safe_environment
from relaykit.errors import did_you_mean
from relaykit.hooks.registration import PluginContext
from relaykit_actions.actions import Action, Actions, Hook
from relaykit_actions.addresses import is_public, literal
from relaykit_actions.settings import ActionsSettings, HookSettings


def open_actions(context: PluginContext, environ: Mapping[str, str]) -> Actions:
    """Return the hooks of a relay.

    :raises SettingsError: one of them could never work; it says which, and where it is written.
    """
    settings: ActionsSettings = context.settings
    hooks = [
        Hook(table, action_of(table, context, environ), settings=settings, meter=context.meter)
        for table in settings.hooks
    ]
    return Actions(hooks, shutdown_timeout=settings.shutdown_timeout)


def action_of(table: HookSettings, context: PluginContext, environ: Mapping[str, str]) -> Action:
    """Return what a hook does.

    :raises SettingsError: it names an agent, a project, a program or a variable that there is not, or a secret that is
        none.
    """
    for key, known in (("agent", context.agents), ("project", context.projects)):
        name = getattr(table, key)
        if name is not None and name not in known:
            there = ", ".join(sorted(known))
            raise table.where.wrong(
                key, f"there is no {key} {name!r}{did_you_mean(name, known)}; there are: {there}"
            )
    return _program(table, environ) if table.run else _webhook(table, context, environ)


def _program(table: HookSettings, environ: Mapping[str, str]) -> Action:
    from relaykit_actions.program import Program

    path = shutil.which(table.run[0], path=environ.get("PATH", os.defpath))
    if path is None:
        raise table.where.wrong(
            "run", f"there is no program {table.run[0]!r} on PATH: install it, or correct its name"
        )
    if missing := [name for name in table.env if name not in environ]:
        raise table.where.wrong("env", f"not set in the environment: {', '.join(missing)}")
    return Program(
        path=str(Path(path).absolute()),
        arguments=table.templates(),
        environment={**safe_environment(environ), **{name: environ[name] for name in table.env}},
        timeout=table.timeout,
    )


def _webhook(table: HookSettings, context: PluginContext, environ: Mapping[str, str]) -> Action:
    import httpx

    from relaykit_actions.signature import keys_of
    from relaykit_actions.webhook import Webhook

    try:
        url = httpx.URL(table.post or "")
    except httpx.InvalidURL as error:
        raise table.where.wrong("post", f"it is no URL: {error}") from None
    address = literal(url.host)
    if address is not None and not table.allow_private and not is_public(address):
        raise table.where.wrong(
            "post", f"{url.host} is not on the public internet: `allow_private = true` allows that"
        )
    keys = []
    if table.secret is not None:
        if not environ.get(table.secret):
            raise table.where.wrong("secret", f"{table.secret} is not set in the environment of the relay")
        try:
            keys = list(keys_of(environ[table.secret]))
        except ValueError as error:
            raise table.where.wrong("secret", f"what {table.secret} holds is none: {error}") from None
    return Webhook(
        url=url,
        keys=keys,
        allow_private=table.allow_private,
        retries=context.settings.retries,
        timeout=table.timeout,
        clock=context.clock,
        ids=context.ids,
    )
