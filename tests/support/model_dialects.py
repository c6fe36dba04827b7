"""The two dialects in which agents talk to models: what was asked, and how an answer is streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says next: a text, or a call of a tool.

    :param tool: the tool to call with this `command`; empty: none, it says `text`.
    :param waits: it goes silent behind the text, as a model that thinks.
    :param number: what makes the ids in it its own.
    """

    text: str = ""
    tool: str = ""
    command: str = ""
    waits: bool = False
    number: int = 0

    @property
    def arguments(self) -> Body:
        """The tool call's arguments, as that tool wants them."""
        wanted: Body = {"command": self.command, "description": "Do as told"}
        return {**wanted, "is_background": False} if self.tool == "run_shell_command" else wanted


class Dialect(Protocol):
    """One provider's way to put it."""

    def last_told(self, body: Body) -> tuple[str, bool]:
        """Return the last thing that the model was told, and whether a tool said it."""
        ...

    def tools(self, body: Body) -> list[str]:
        """Return the names of the tools that it may call."""
        ...

    def events(self, answer: Answer) -> Iterator[str]:
        """Yield the events of a streamed answer; no end if it waits."""
        ...


class OpenAI:
    """``POST /v1/chat/completions``."""

    def last_told(self, body: Body) -> tuple[str, bool]:
        """See `Dialect`."""
        last = body["messages"][-1]
        return _text(last["content"]), last["role"] == "tool"

    def tools(self, body: Body) -> list[str]:
        """See `Dialect`."""
        return [tool["function"]["name"] for tool in body.get("tools", [])]

    def events(self, answer: Answer) -> Iterator[str]:
        """See `Dialect`."""
        yield self._chunk(answer, {"role": "assistant", "content": ""})
        if answer.tool:
            function = {"name": answer.tool, "arguments": json.dumps(answer.arguments)}
            call = {"index": 0, "id": f"call_{answer.number}", "type": "function", "function": function}
            yield self._chunk(answer, {"tool_calls": [call]})
        else:
            yield self._chunk(answer, {"content": answer.text})
        if not answer.waits:
            yield self._chunk(answer, {}, "tool_calls" if answer.tool else "stop")
            yield "data: [DONE]\n\n"

    @staticmethod
    def _chunk(answer: Answer, delta: Body, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10} if finish else None
        chunk = {"id": f"c{answer.number}", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
        return f"data: {json.dumps({**chunk, 'choices': [choice], 'usage': usage})}\n\n"


class Anthropic:
    """``POST /v1/messages``."""

    def last_told(self, body: Body) -> tuple[str, bool]:
        """See `Dialect`."""
        content = next(m["content"] for m in reversed(body["messages"]) if m["role"] == "user")
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        last = next(block for block in reversed(blocks) if not _is_reminder(block))
        is_result = last["type"] == "tool_result"
        return _text(last["content"] if is_result else last["text"]), is_result

    def tools(self, body: Body) -> list[str]:
        """See `Dialect`."""
        return [tool["name"] for tool in body.get("tools", [])]

    def events(self, answer: Answer) -> Iterator[str]:
        """See `Dialect`."""
        message = {
            "id": f"msg_{answer.number}",
            "type": "message",
            "role": "assistant",
            "model": "stub",
            "content": [],
        }
        usage = {"input_tokens": 7, "output_tokens": 3}
        yield self._event("message_start", message={**message, "stop_reason": None, "usage": usage})
        if answer.tool:
            block: Body = {
                "type": "tool_use",
                "id": f"toolu_{answer.number}",
                "name": answer.tool,
                "input": {},
            }
            delta = {"type": "input_json_delta", "partial_json": json.dumps(answer.arguments)}
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": answer.text}
        yield self._event("content_block_start", index=0, content_block=block)
        yield self._event("content_block_delta", index=0, delta=delta)
        if not answer.waits:
            yield self._event("content_block_stop", index=0)
            why = "tool_use" if answer.tool else "end_turn"
            yield self._event("message_delta", delta={"stop_reason": why}, usage={"output_tokens": 3})
            yield self._event("message_stop")

    @staticmethod
    def _event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def _text(content: str | list[Body] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", "") for part in content if not _is_reminder(part))


def _is_reminder(part: Body) -> bool:
    """Say whether it is what the agent adds for the model: no word of the user's."""
    return str(part.get("text", "")).lstrip().startswith("<system-reminder>")
