"""History: what was said before, a page at a time, from the newest back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from relaykit.agent.launcher import AgentSpec
from relaykit.errors import SessionNotFound
from relaykit.relay.deciders import Deciders
from relaykit_gateway.acp.render import AcpRenderer, Subject
from relaykit_gateway.acp.splice import object_of

if TYPE_CHECKING:
    from relaykit.relay.restricted import RestrictedRelay
    from relaykit_gateway.acp.wanted import History

_MOST = 1000
_PAGE_CHARACTERS = 1024 * 1024
_AT_ONCE, _AT_ONCE_BYTES = 64, 4 * 1024 * 1024
"""What is read before it is looked at how long the messages are."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A session of which only the transcript is left."""

    id: str
    spec: AgentSpec
    inherited: int = 0


async def history_page(relay: RestrictedRelay, wanted: History) -> bytes:
    """Return the raw result of ``_relaykit/history``: messages as they were told, those of the newest entry first.

    A page has at least one entry, if there is any, and otherwise ends where it would become longer than a MiB.

    :raises SessionNotFound: nothing of such a session is kept.
    :raises JournalError: the transcript cannot be read.
    """
    session = await relay.find(wanted.session_id)
    facts: dict[str, object] = {"sessionId": session.id}
    subject: Subject
    try:
        live = await relay.live(session.id)
    except SessionNotFound:
        subject = _Ended(session.id, AgentSpec(session.agent, command=()))
        head = await _newest(relay, session.id)
    else:
        subject, head = live, live.conversation.head
        facts["epoch"] = live.conversation.epoch
    renderer = AcpRenderer(subject, Deciders(partial(relay.transcript, session.id)))
    entries: list[dict[str, object]] = []
    room, most = _PAGE_CHARACTERS, min(wanted.limit, _MOST)
    reached = min(wanted.before or head + 1, head + 1)  # everything from here on is told
    at_once = _AT_ONCE
    while reached > 1 and len(entries) < most and room > 0:
        after = max(reached - 1 - min(at_once, most - len(entries)), 0)
        read = await relay.transcript(
            session.id, after=after, limit=reached - 1 - after, max_bytes=_AT_ONCE_BYTES
        )
        if read and read[-1].seq < reached - 1:  # some hold whole images: then the newest come first
            at_once = max(at_once // 2, 1)
            continue
        for entry in reversed([entry for entry in read if entry.seq < reached]):
            messages = [*renderer.messages(entry), *await renderer.extras(entry)]
            room -= sum(map(len, messages))
            if room < 0 and entries:
                break
            entries.append({"seq": entry.seq, "messages": [msgspec.Raw(text.encode()) for text in messages]})
            reached = entry.seq
        else:
            if reached > after + 1:
                facts["gap"] = {"from": 1, "to": reached - 1}  # these are not kept any more
                reached = 1
    more = {"next": reached} if reached > 1 else {}
    return object_of({**facts, "entries": entries, **more})


async def _newest(relay: RestrictedRelay, session_id: str) -> int:
    """Return the newest seq of a transcript that nobody writes to; 0 if there is nothing. A journal does not tell."""

    async def goes_beyond(seq: int) -> bool:
        return bool(await relay.transcript(session_id, after=seq, limit=1))

    low, step = 0, 1024
    while await goes_beyond(low + step):
        low, step = low + step, step * 2
    high = low + step
    while low < high:  # it lies in low … high
        middle = (low + high) // 2
        if await goes_beyond(middle):
            low = middle + 1
        else:
            high = middle
    return low
