"""An ACP agent that says back what it is told, and misbehaves on request.

For demonstrations, tests and benchmarks: standard library only, quick to start, and fast. Run it as
``python -m relaykit_acp.echo_agent [FLAG …]``, or, to start faster, by its path.

A prompt is echoed as one ``agent_message_chunk``. One that begins with a directive does that instead:

=============================== ==========================================================================
``/stream N [SIZE]``            send N updates of SIZE bytes of text (40), as fast as they are taken
``/ask``                        ask for a permission, and say how it was decided
``/elicit``                     ask a question by ``elicitation/create``, and say what was answered
``/sleep S``                    answer after S seconds, or at once when the turn is cancelled
``/crash [CODE]``               exit at once with CODE (1)
``/ignore-signals``             from now on ignore TERM, HUP, INT and the end of the input
``/flood MB stderr``            write so much to stderr
``/flood MB garbage``           write so much to stdout, in lines that are no JSON
``/children N [setsid]``        start N children that ignore TERM and hold stdout; ``setsid``: in their own groups
``/fail``                       answer the prompt with a JSON-RPC error
``/login``                      answer the prompt with -32000, login needed
``/unknown [METHOD]``           send a request that no client knows, and say the code of the answer
``/late``                       send an update after the end of the turn
``/banner``                     write a line that is no JSON first
``/huge BYTES``                 send one update of about that many bytes
``/raw JSON``                   write that line as it is
``/env``                        say the environment, as JSON
``/deaf [S]``                   read nothing for S seconds (any more)
``/close-stdout``               close stdout, and live on
=============================== ==========================================================================

The request ``_echo/sleep {"seconds"}`` is answered after that time, or with -32800 at ``$/cancel_request``.

Flags, for the start:

==================== ====================================================================================
``--no-initialize``  never answer ``initialize``
``--no-session``     never answer ``session/new``
``--exit CODE``      exit at once, with a word on stderr
``--banner``         write a line that is no JSON first
``--login-required`` answer ``session/new`` with -32000
``--refuse``         answer ``session/new`` with another error
``--version N``      claim to speak version N of the protocol
``--early-update``   send an update before the answer to ``session/new``
``--ignore-eof``     live on when the input ends
``--ignore-signals`` ignore TERM, HUP, INT and the end of the input
``--delay S``        wait before the first word
==================== ====================================================================================
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

# `typing` is not imported: it would take a third of the time that this program takes to start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_CHUNK = 1 << 16
_BANNER = b"Welcome to echo! This line is no JSON.\n"
# A leftover of a test that failed does not live for ever.
_LIFETIME = 600
_METHOD_NOT_FOUND, _LOGIN_REQUIRED, _CANCELLED = -32601, -32000, -32800
_MODES = ["echo", "shout"]


class Echo:
    """The agent: one loop over its input, and a table of what each method and directive does.

    :param flags: the command line, as in the module's description.
    """

    def __init__(self, flags: list[str]) -> None:
        self._flags = flags
        self._session = ""
        self._parts: list[bytes] = []
        self._lines: list[bytes] = []
        self._waiting: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0  # the agent's own ids begin at 0, and so collide with every client's
        self._in_turn = False
        self._cancelled = False
        self._ignores_eof = "--ignore-eof" in flags
        self._methods: dict[str, Callable[[Any, dict[str, Any]], None]] = {
            "initialize": self._initialize,
            "session/new": self._new,
            "session/load": self._reopen,
            "session/resume": self._reopen,
            "session/set_mode": self._set_mode,
            "session/prompt": self._prompt,
            "session/cancel": self._cancel,
            "_echo/sleep": self._sleep_in_call,
            "$/cancel_request": self._cancel,
        }
        self._directives: dict[str, Callable[[list[str]], str | None]] = {
            "/stream": self._stream,
            "/ask": self._ask,
            "/elicit": self._elicit,
            "/sleep": self._sleep,
            "/crash": self._crash,
            "/ignore-signals": self._ignore_signals,
            "/flood": self._flood,
            "/children": self._children,
            "/unknown": self._unknown,
            "/banner": lambda _words: self._write(_BANNER),
            "/huge": self._huge,
            "/raw": self._raw,
            "/env": self._env,
            "/deaf": self._deaf,
            "/close-stdout": self._close_stdout,
        }

    def run(self) -> None:
        """Serve until the input ends."""
        if "--ignore-signals" in self._flags:
            self._ignore_signals([])
        if "--delay" in self._flags:
            time.sleep(float(self._flag("--delay")))
        if "--banner" in self._flags:
            self._write(_BANNER)
        if "--exit" in self._flags:
            os.write(_STDERR, b"echo: told to exit\n")
            os._exit(int(self._flag("--exit")))
        while (message := self._receive()) is not None:
            self._handle(message)
        if self._ignores_eof:
            time.sleep(_LIFETIME)

    def _flag(self, name: str) -> str:
        return self._flags[self._flags.index(name) + 1]

    # ------------------------------------------------------------ in and out

    def _receive(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Return the next message; None at the end of the input, or of the time."""
        if self._waiting and not self._in_turn:
            return self._waiting.pop(0)
        while not self._lines:
            if timeout is not None and not select.select([_STDIN], [], [], timeout)[0]:
                return None
            chunk = os.read(_STDIN, _CHUNK)
            if not chunk:
                return None
            *lines, rest = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join((*self._parts, lines[0]))
                self._parts = []
                self._lines = lines[::-1]
            self._parts.append(rest)
        message: dict[str, Any] = json.loads(self._lines.pop())
        return message

    def _handle(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method is None:
            self._answers[message["id"]] = message
        elif method == "session/prompt" and self._in_turn:
            self._waiting.append(message)
        elif method in self._methods:
            self._methods[method](message.get("id"), message.get("params") or {})
        elif "id" in message:
            self._fail(message["id"], _METHOD_NOT_FOUND, f"method not found: {method}")

    @staticmethod
    def _write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(_STDOUT, view) :]

    @staticmethod
    def _line(message: dict[str, Any]) -> bytes:
        return json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n"

    def _answer(self, raw_id: Any, result: dict[str, Any]) -> None:
        self._write(self._line({"id": raw_id, "result": result}))

    def _fail(self, raw_id: Any, code: int, text: str) -> None:
        self._write(self._line({"id": raw_id, "error": {"code": code, "message": text}}))

    def _chunk(self, text: str) -> bytes:
        content = {"type": "text", "text": text}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        return self._line(
            {"method": "session/update", "params": {"sessionId": self._session, "update": update}}
        )

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the client, and return its answer; the input's end ends the agent."""
        number = self._next_id
        self._next_id += 1
        self._write(
            self._line({"id": number, "method": method, "params": {"sessionId": self._session, **params}})
        )
        while number not in self._answers:
            message = self._receive()
            if message is None:
                sys.exit(0)
            self._handle(message)
        return self._answers.pop(number)

    # ------------------------------------------------------------ methods

    def _initialize(self, raw_id: Any, _params: dict[str, Any]) -> None:
        if "--no-initialize" in self._flags:
            return
        result = {
            "protocolVersion": int(self._flag("--version")) if "--version" in self._flags else 1,
            "agentCapabilities": {
                "loadSession": True,
                "promptCapabilities": {"image": True, "embeddedContext": True},
                "sessionCapabilities": {"resume": {}},
            },
            "agentInfo": {"name": "relaykit-echo", "title": "Echo", "version": "0.1.0"},
            "authMethods": [],
        }
        self._answer(raw_id, result)

    def _new(self, raw_id: Any, _params: dict[str, Any]) -> None:
        if "--no-session" in self._flags:
            return
        if "--login-required" in self._flags:
            self._fail(raw_id, _LOGIN_REQUIRED, "Authentication required")
            return
        if "--refuse" in self._flags:
            self._fail(raw_id, -32603, "no session today")
            return
        self._session = f"sess-{os.urandom(8).hex()}"
        if "--early-update" in self._flags:
            self._write(self._chunk("early"))
        self._answer(raw_id, {"sessionId": self._session, "modes": self._mode("echo")})

    def _reopen(self, raw_id: Any, params: dict[str, Any]) -> None:
        self._session = params["sessionId"]
        self._answer(raw_id, {"modes": self._mode("echo")})

    @staticmethod
    def _mode(current: str) -> dict[str, Any]:
        return {"currentModeId": current, "availableModes": [{"id": mode, "name": mode} for mode in _MODES]}

    def _set_mode(self, raw_id: Any, params: dict[str, Any]) -> None:
        if params.get("modeId") not in _MODES:
            self._fail(raw_id, -32602, f"no such mode: {params.get('modeId')}")
            return
        update = {"sessionUpdate": "current_mode_update", "currentModeId": params["modeId"]}
        self._write(
            self._line({"method": "session/update", "params": {"sessionId": self._session, "update": update}})
        )
        self._answer(raw_id, {})

    def _sleep_in_call(self, raw_id: Any, params: dict[str, Any]) -> None:
        self._in_turn, self._cancelled = True, False
        how, self._in_turn = self._sleep([params["seconds"]]), False
        if self._cancelled:
            self._fail(raw_id, _CANCELLED, how)
        else:
            self._answer(raw_id, {"how": how})

    def _cancel(self, _raw_id: Any, _params: dict[str, Any]) -> None:
        self._cancelled = self._in_turn

    def _prompt(self, raw_id: Any, params: dict[str, Any]) -> None:
        self._in_turn, self._cancelled = True, False
        text = "".join(block.get("text", f"[{block.get('type')}]") for block in params.get("prompt", []))
        words = text.split() if text.startswith("/") else []
        said: str | None = text
        if words and words[0] in self._directives:
            said = self._directives[words[0]]([text] if words[0] == "/raw" else words[1:])
        self._in_turn = False
        if words and words[0] == "/fail":
            self._fail(raw_id, -32603, "told to fail")
        elif words and words[0] == "/login":
            self._fail(raw_id, _LOGIN_REQUIRED, "Authentication required")
        else:
            reason = "cancelled" if self._cancelled else "end_turn"
            late = self._chunk("late") if words and words[0] == "/late" else b""
            end = self._line({"id": raw_id, "result": {"stopReason": reason}})
            self._write((self._chunk(said) if said and not late else b"") + end + late)

    # ------------------------------------------------------------ directives: what they return is said

    def _stream(self, words: list[str]) -> None:
        count, size = int(words[0]), int(words[1]) if len(words) > 1 else 40
        before, after = self._chunk("@").split(b"@")
        after = b"x" * max(0, size - 8) + after
        per_batch = max(1, _CHUNK // (len(before) + len(after) + 8))
        for first in range(0, count, per_batch):
            numbers = range(first, min(first + per_batch, count))
            self._write(b"".join([b"%b%07d %b" % (before, number, after) for number in numbers]))

    def _ask(self, _words: list[str]) -> str:
        options = [
            {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
            {"optionId": "no", "name": "Reject", "kind": "reject_once"},
        ]
        tool_call = {"toolCallId": "call-1", "title": "Say it", "kind": "other", "status": "pending"}
        answer = self._request("session/request_permission", {"toolCall": tool_call, "options": options})
        outcome = answer.get("result", {}).get("outcome", {})
        return f"permission: {outcome.get('optionId', outcome.get('outcome', answer.get('error')))}"

    def _elicit(self, _words: list[str]) -> str:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        answer = self._request(
            "elicitation/create", {"mode": "form", "message": "Name?", "requestedSchema": schema}
        )
        return f"elicitation: {json.dumps(answer.get('result', answer.get('error')))}"

    def _sleep(self, words: list[str]) -> str:
        end = time.monotonic() + float(words[0])
        while not self._cancelled and (left := end - time.monotonic()) > 0:
            message = self._receive(left)
            if message is None:
                break
            self._handle(message)
        return "woken" if self._cancelled else "slept"

    @staticmethod
    def _crash(words: list[str]) -> None:
        os.write(_STDERR, b"echo: told to crash\n")
        os._exit(int(words[0]) if words else 1)

    def _ignore_signals(self, _words: list[str]) -> str:
        import signal

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self._ignores_eof = True
        return "signals are ignored"

    def _flood(self, words: list[str]) -> str:
        line = b"flood " + b"~" * 93 + b"\n"
        many = line * (_CHUNK // len(line))
        for _ in range(int(float(words[0]) * 1024 * 1024 / len(many)) + 1):
            if words[1] == "stderr":
                os.write(_STDERR, many)
            else:
                self._write(many)
        return "flooded"

    @staticmethod
    def _children(words: list[str]) -> str:
        import signal

        ready, tell = os.pipe()
        pids = []
        for _ in range(int(words[0])):
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                if "setsid" in words:
                    os.setsid()
                os.write(tell, b".")
                time.sleep(_LIFETIME)
                os._exit(0)
            pids.append(pid)
        for _ in pids:
            os.read(ready, 1)
        os.close(ready)
        os.close(tell)
        return f"children: {' '.join(map(str, pids))}"

    def _unknown(self, words: list[str]) -> str:
        answer = self._request(words[0] if words else "no/such_method", {})
        return f"answered with {answer.get('error', {}).get('code')}"

    def _huge(self, words: list[str]) -> str:
        return "x" * int(words[0])

    def _raw(self, words: list[str]) -> None:
        self._write(words[0].removeprefix("/raw ").replace("$SESSION", self._session).encode() + b"\n")

    @staticmethod
    def _env(_words: list[str]) -> str:
        return json.dumps(dict(os.environ))

    @staticmethod
    def _deaf(words: list[str]) -> None:
        time.sleep(float(words[0]) if words else _LIFETIME)

    @staticmethod
    def _close_stdout(_words: list[str]) -> None:
        os.close(_STDOUT)
        time.sleep(_LIFETIME)


def main() -> None:
    """Run as a program."""
    try:
        Echo(sys.argv[1:]).run()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)


if __name__ == "__main__":
    main()
