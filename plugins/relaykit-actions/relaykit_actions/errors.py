"""ActionFailed: what becomes of an action that is not done."""

from __future__ import annotations

from relaykit.errors import RelaykitError


class ActionFailed(RelaykitError):
    """An action was not done, and will not be tried again; the message says why, and is logged."""
