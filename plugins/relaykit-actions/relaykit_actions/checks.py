"""What ``relaykit doctor`` says of hooks in the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relaykit.errors import SettingsError
from relaykit.hooks.registration import Check, Finding, PluginContext, Surroundings, Verdict
from relaykit_actions.opening import action_of
from relaykit_actions.settings import HookSettings


def checks(context: PluginContext, environ: Mapping[str, str]) -> Sequence[Check]:
    """Return the plugin's checks."""

    async def look(_surroundings: Surroundings) -> Sequence[Finding]:
        return [_finding(table, context, environ) for table in context.settings.hooks]

    return [Check(name=context.name, look=look)]


def _finding(table: HookSettings, context: PluginContext, environ: Mapping[str, str]) -> Finding:
    try:
        action_of(table, context, environ)
    except SettingsError as error:
        return Finding(verdict=Verdict.TROUBLE, what=str(error), fix="correct it: no relay starts with it")
    does = f"runs {table.run[0]}" if table.run else f"posts to {table.url.hostname}"
    signed = "" if table.run or table.secret else ", unsigned"
    return Finding(verdict=Verdict.OK, what=f"{table.where.table} {does} on {', '.join(table.on)}{signed}")
