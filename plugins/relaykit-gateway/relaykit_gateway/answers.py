"""The whole answer of one turn, read back from the transcript."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from anyio.lowlevel import checkpoint

from relaykit.conversation import Conversation, Entry, Kind

MAX_CHARACTERS = 8 * 1024 * 1024
"""The longest text that is put together; of what is longer, the beginning is kept."""

_PAGE = 512
_WORD = b"agent_message_chunk"


class _Content(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Chunk(msgspec.Struct, rename="camel"):
    session_update: str
    content: _Content


class _Params(msgspec.Struct):
    update: _Chunk


_decode = msgspec.json.Decoder(_Params).decode


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent wrote in one turn.

    :param truncated: it is too long, or its beginning is not kept any more.
    """

    text: str
    truncated: bool = False


async def read_answer(conversation: Conversation, end: Entry) -> Answer:
    """Return the text that the agent wrote between a turn's PROMPT and `end`, its TURN_END.

    :raises JournalError: the journal cannot be read.
    """
    position, truncated = await _beginning(conversation, end)
    texts: list[str] = []
    size = 0
    while page := await conversation.page(after=position, through=end.seq - 1):
        truncated = truncated or page[0].seq > position + 1
        for entry in page:
            text = _text_of(entry)
            size += len(text)
            if size > MAX_CHARACTERS:
                return Answer("".join(texts), truncated=True)
            texts.append(text)
        position = page[-1].seq
        if position < end.seq - 1:
            await checkpoint()  # a long answer is put together while others have their turn
    return Answer("".join(texts), truncated or position < end.seq - 1)


async def _beginning(conversation: Conversation, end: Entry) -> tuple[int, bool]:
    """Return the seq behind which the answer begins, and whether that is only what is left of it."""
    before = end.seq - 1
    while before > 0:
        after = position = max(before - _PAGE, 0)
        oldest = prompt = 0
        while page := await conversation.page(after=position, through=before):
            oldest, position = oldest or page[0].seq, page[-1].seq
            for entry in page:
                if entry.frame.kind is Kind.PROMPT and entry.frame.ref == end.frame.ref:
                    prompt = entry.seq
        if prompt:
            return prompt, False
        if oldest != after + 1:
            return (oldest - 1 if oldest else before), True
        before = after
        await checkpoint()  # as below
    return 0, True


def _text_of(entry: Entry) -> str:
    body = entry.frame.body
    if entry.frame.kind is not Kind.UPDATE or _WORD not in body:
        return ""
    try:
        update = _decode(body).update
    except msgspec.MsgspecError:
        return ""  # no chunk of text, but something that mentions the word
    is_text = update.session_update == "agent_message_chunk" and update.content.type == "text"
    return update.content.text if is_text else ""
