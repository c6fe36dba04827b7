"""A language model that runs on loopback and says what a script says, for agents that need one.

What it says depends on the last thing that it was told:

================== =====================================================================================
``run: COMMAND``   a call of the agent's shell tool with that command
a tool's result    ``the tool said: RESULT``
``wait``           ``waiting``, and no more for a long time
anything else      ``you said: TEXT``
================== =====================================================================================
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.model_dialects import Answer, Anthropic, Dialect, OpenAI

PATIENCE = 60
"""Seconds that a ``wait`` lasts."""

_SHELLS = {"bash", "Bash", "run_shell_command"}
_DIALECTS: dict[str, Dialect] = {"/v1/chat/completions": OpenAI(), "/v1/messages": Anthropic()}


def script(told: str, *, is_result: bool, tools: list[str]) -> Answer:
    """Return what the model says next, as the module's table says.

    :param told: the last thing that the model was told.
    :param is_result: a tool said it.
    :param tools: the names of the tools that it may call.
    """
    if is_result:
        return Answer(text=f"the tool said: {told.strip()}")
    shell = next((tool for tool in tools if tool in _SHELLS), "")
    command = re.search(r"run: (.+)", told)
    if command and shell:  # an agent that asks for a title offers no tools
        return Answer(tool=shell, command=command[1].strip())
    if told.strip() == "wait" and shell:
        return Answer(text="waiting", waits=True)
    return Answer(text=f"you said: {told}")


class ModelStub:
    """The server. It listens as long as the block lasts.

    :ivar url: ``http://127.0.0.1:PORT``, without a path.
    """

    def __init__(self) -> None:
        self.closing = threading.Event()
        self.numbers = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    stub: ModelStub

    def do_HEAD(self) -> None:
        self._begin("text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        dialect = _DIALECTS.get(self.path.partition("?")[0])
        if dialect is None:
            self.send_error(404)
            return
        told, is_result = dialect.last_told(body)
        said = script(told, is_result=is_result, tools=dialect.tools(body))
        answer = replace(said, number=next(self.stub.numbers))
        self._begin("text/event-stream")
        for event in dialect.events(answer):
            self.wfile.write(event.encode())
        self.wfile.flush()
        if answer.waits:
            self.stub.closing.wait(PATIENCE)

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def _begin(self, content_type: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Connection", "close")
        self.end_headers()
