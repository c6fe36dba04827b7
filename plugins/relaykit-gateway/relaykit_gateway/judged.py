"""Judged: questions that a rule or a policy has answered are not put to people, who could only see them vanish."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from relaykit.conversation import Entry
from relaykit.relay.deciders import ALLOWED, REFUSED
from relaykit.relay.notices import DECIDED

_BEHIND = 2
"""Entries from such a REQUEST to the NOTICE that tells of it: the DECISION is between them."""


class _Decided(msgspec.Struct, rename="camel"):
    request_id: str
    outcome: str


def is_judged(request: Entry, entries: Sequence[Entry]) -> bool:
    """Tell whether a question is answered already among these entries, by no person.

    :param entries: without holes; the REQUEST is among them.
    """
    place = request.seq - entries[0].seq + _BEHIND
    if place >= len(entries) or entries[place].frame.method != DECIDED:
        return False
    decided = msgspec.json.decode(entries[place].frame.body, type=_Decided)
    return decided.request_id == request.frame.ref and decided.outcome in {ALLOWED, REFUSED}
