"""What ``relaykit doctor`` says of traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from relaykit.errors import PluginError
from relaykit.hooks.registration import Check, Finding, Surroundings, Verdict
from relaykit_otel.environment import endpoint, exporters


def checks(name: str, environ: Mapping[str, str]) -> Sequence[Check]:
    """Return the plugin's checks."""

    async def look(_surroundings: Surroundings) -> Sequence[Finding]:
        return [_finding(environ)]

    return [Check(name=name, look=look)]


def _finding(environ: Mapping[str, str]) -> Finding:
    wanted = exporters(environ)
    if not wanted:
        return Finding(
            verdict=Verdict.OK,
            what="no traces: neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_TRACES_EXPORTER is set",
        )
    from relaykit_otel.exporting import find_exporter

    try:
        for exporter in wanted:
            find_exporter(exporter)
    except PluginError as error:
        return Finding(
            verdict=Verdict.TROUBLE, what=str(error), fix="install it, or correct OTEL_TRACES_EXPORTER"
        )
    host = urlsplit(endpoint(environ)).hostname  # the rest may hold a secret
    return Finding(
        verdict=Verdict.OK, what=f"traces go to {', '.join(wanted)}{f' at {host}' if host else ''}"
    )
