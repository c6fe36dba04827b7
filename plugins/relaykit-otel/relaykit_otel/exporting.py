"""The SDK's parts, as the standard variables choose them; a provider for one relay, and no global one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from relaykit.errors import PluginError
from relaykit_otel.environment import exporters, names_service

NAME = "otel"
GROUP = "opentelemetry_traces_exporter"
"""The group of the entry points with which distributions announce exporters, as the SDK has it."""


class GivenIds(IdGenerator):
    """Random ids, but for a span whose ids follow from something else."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self._span_id: int | None = None
        self._trace_id: int | None = None

    def give(self, *, trace_id: int, span_id: int) -> None:
        """Give the next span these ids. It is to be started at once, in the same thread."""
        self._trace_id, self._span_id = trace_id, span_id

    def generate_span_id(self) -> int:
        """Return the given one once, else a random one."""
        given, self._span_id = self._span_id, None
        return self._random.generate_span_id() if given is None else given

    def generate_trace_id(self) -> int:
        """Return the given one once, else a random one."""
        given, self._trace_id = self._trace_id, None
        return self._random.generate_trace_id() if given is None else given


def find_exporter(name: str) -> Callable[[], SpanExporter]:
    """Return what makes an exporter.

    :raises PluginError: no distribution announces it, or it cannot be imported.
    """
    found = metadata.entry_points(group=GROUP)
    try:
        return cast("Callable[[], SpanExporter]", found[name].load())
    except KeyError:
        known = ", ".join(sorted(found.names))
        raise PluginError(
            f"there is no exporter {name!r} of traces; installed are {known}", plugin=NAME
        ) from None
    except ImportError as error:
        raise PluginError(f"the exporter {name!r} cannot be imported: {error}", plugin=NAME) from error


def make_provider(environ: Mapping[str, str], *, ids: IdGenerator, node: str) -> TracerProvider:
    """Return a provider that sends to the exporters that are wanted, in threads of its own.

    Sampling, limits, the queue, addresses, headers and the rest are as the SDK reads them from the environment.

    :raises PluginError: an exporter is not installed, or does not take its settings.
    """
    attributes = {"relaykit.node": node, "service.version": metadata.version("relaykit")}
    if not names_service(environ):
        attributes["service.name"] = "relaykit"
    provider = TracerProvider(resource=Resource.create(attributes), id_generator=ids, shutdown_on_exit=False)
    for name in exporters(environ):
        make = find_exporter(name)
        try:
            processor = BatchSpanProcessor(make())
        except Exception as error:
            provider.shutdown()
            raise PluginError(f"the exporter {name!r} cannot be made: {error}", plugin=NAME) from error
        provider.add_span_processor(processor)
    return provider
