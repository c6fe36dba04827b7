"""Pages: how much of a transcript is read at once. Entries differ: most are short, and some hold whole images."""

from __future__ import annotations

from collections.abc import Sequence

from relaykit.conversation.journal import Entry

PAGE_ENTRIES, PAGE_BYTES = 512, 1024 * 1024
"""What a page has at most, where nobody says otherwise. One entry may be longer."""


def fitting(entries: Sequence[Entry], max_bytes: int | None) -> Sequence[Entry]:
    """Return the first entries whose bodies have at most `max_bytes` together; at least one, if there is any."""
    if max_bytes is None:
        return entries
    # Nearly always it is all of them: this is the fastest way to see that.
    if sum([len(frame.body) for _, _, frame in entries]) <= max_bytes:
        return entries
    size = 0
    for count, (_, _, frame) in enumerate(entries):
        size += len(frame.body)
        if size > max_bytes:
            return entries[: max(count, 1)]
    return entries
