"""Questions: what the agent asked the editor, until the relay says that it is settled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Question:
    """A request of the agent that the editor has.

    :param asked: it came on this connection: an answer can go out.
    :param answer: the editor's, kept until the relay says that the question is closed.
    """

    session_id: str
    asked: bool = True
    answer: bytes | None = None


class Questions:
    """Asks the editor every question once, and tells the relay every answer until it has it.

    The relay asks again on every connection, by the same id, for as long as a question is open.

    :param to_relay: where messages for the relay go.
    :param to_editor: where messages for the editor go.
    """

    def __init__(self, to_relay: list[bytes], to_editor: list[bytes]) -> None:
        self._to_relay = to_relay
        self._to_editor = to_editor
        self._questions: dict[str, _Question] = {}

    def ask(self, key: str, session_id: str, text: bytes) -> None:
        """Take a question from the relay.

        :param key: its id: JSON.
        """
        question = self._questions.get(key)
        if question is None:
            self._questions[key] = _Question(session_id)
            self._to_editor.append(text)
            return
        question.asked = True
        if question.answer is not None:
            self._to_relay.append(question.answer)

    def answer(self, key: str, text: bytes) -> None:
        """Take an answer from the editor; one that nobody waits for is dropped."""
        question = self._questions.get(key)
        if question is not None and question.answer is None:
            question.answer = text
            if question.asked:
                self._to_relay.append(text)

    def close(self, key: str, cancellation: bytes | None = None) -> None:
        """Forget a question, and take it back from an editor that has not answered.

        :param cancellation: the relay's own ``$/cancel_request``.
        """
        question = self._questions.pop(key, None)
        if question is not None and question.answer is None:
            self._to_editor.append(cancellation or _cancellation(key))

    def close_all(self, session_id: str) -> None:
        """Forget all questions of a session."""
        for key in [key for key, question in self._questions.items() if question.session_id == session_id]:
            self.close(key)

    def disconnected(self) -> None:
        """Note that the connection is lost: answers wait until the relay asks again."""
        for question in self._questions.values():
            question.asked = False


def _cancellation(key: str) -> bytes:
    return f'{{"jsonrpc":"2.0","method":"$/cancel_request","params":{{"requestId":{key}}}}}'.encode()
