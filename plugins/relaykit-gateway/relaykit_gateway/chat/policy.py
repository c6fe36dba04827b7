"""Policy: what becomes of an agent's questions where nobody may be there to answer."""

from __future__ import annotations

from enum import Enum, auto

from relaykit_gateway.acp_client import ELICITATION, PERMISSION, Json, Question
from relaykit_gateway.chat.permissions import ALLOW, REJECT, options_of, pick


class Policy(Enum):
    """How ``relaykit run`` answers."""

    LEAVE = auto()
    """Not at all: a person has to."""
    YES = auto()
    """Permissions are given, once if that is offered. Forms wait for a person: nobody knows their answers."""
    NO = auto()
    """Permissions are refused, forms declined."""


def decide(policy: Policy, question: Question) -> Json | None:
    """Return the result that a policy answers with; None if a person has to."""
    if question.method == ELICITATION:
        return {"action": "decline"} if policy is Policy.NO else None
    if question.method != PERMISSION or policy not in {Policy.YES, Policy.NO}:
        return None
    option = pick(options_of(question.params), ALLOW if policy is Policy.YES else REJECT)
    if option is not None:
        return {"outcome": {"outcome": "selected", "optionId": option.get("optionId")}}
    return {"outcome": {"outcome": "cancelled"}} if policy is Policy.NO else None
