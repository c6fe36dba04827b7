"""What the standard variables say (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_BY_PROTOCOL = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def is_configured(environ: Mapping[str, str]) -> bool:
    """Tell whether traces go somewhere: an exporter is named, or the address of a collector."""
    return bool(exporters(environ))


def exporters(environ: Mapping[str, str]) -> Sequence[str]:
    """Return the exporters that are wanted, by the names under which distributions announce them.

    Unlike the specification's, our default is none: without an address nobody meant to send anything anywhere.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not named and any(environ.get(name, "").strip() for name in _ENDPOINTS):
        named = "otlp"
    names = [name.strip() for name in named.split(",")]
    return [_otlp(environ) if name == "otlp" else name for name in names if name not in {"", "none"}]


def endpoint(environ: Mapping[str, str]) -> str:
    """Return the collector's address as it is set; empty if it is not."""
    return next((value for name in _ENDPOINTS if (value := environ.get(name, "").strip())), "")


def names_service(environ: Mapping[str, str]) -> bool:
    """Tell whether the variables give the service a name."""
    attributes = environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    return bool(environ.get("OTEL_SERVICE_NAME")) or any(
        attribute.strip().startswith("service.name=") for attribute in attributes
    )


def _otlp(environ: Mapping[str, str]) -> str:
    protocol = next(
        (value for name in _PROTOCOLS if (value := environ.get(name, "").strip())), "http/protobuf"
    )
    return _BY_PROTOCOL.get(protocol, f"otlp_{protocol}")
