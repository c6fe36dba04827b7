"""How ``relaykit serve`` logs: text for people, or JSON lines for programs, on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, in ASCII.

    ``time`` (UTC, RFC 3339, microseconds), ``level``, ``logger`` and ``message``; of an event its name
    as ``event`` and its facts; where an exception was logged, its traceback as ``exception``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if event := getattr(record, "event", None):
            line = {**getattr(record, "facts", {}), **line, "event": event}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str, separators=(",", ":"))


def begin_logging(*, level: str, log_format: str) -> None:
    """Log everything from `level` on to standard error.

    :param level: ``debug``, ``info``, ``warning`` or ``error``.
    :param log_format: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
