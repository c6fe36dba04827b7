"""Questions: what the agent asks and somebody must answer. The first answer wins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relaykit.conversation.frame import Frame
from relaykit.errors import QuestionClosed


@dataclass(slots=True)
class Question:
    """A REQUEST that waits.

    :param asked: on the clock's monotonic seconds.
    :param seq: of its entry; 0 until it has been recorded.
    """

    request: Frame
    asked: float
    seq: int = 0


class Questions:
    """The open questions of one session, in the order in which they were asked.

    Taking a question out is the one step that decides who answered: it is synchronous, so that of two
    answers on one loop exactly one wins.
    """

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id
        self._open: dict[str, Question] = {}

    def __iter__(self) -> Iterator[Question]:
        return iter(list(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, request: Frame, *, at: float) -> Question:
        """Open a question, and return it."""
        question = self._open[request.ref] = Question(request, at)
        return question

    def take(self, ref: str) -> Question:
        """Close a question and return it: the caller is the one who answers it.

        :raises QuestionClosed: it was answered or cancelled already, or never was.
        """
        question = self.discard(ref)
        if question is None:
            raise QuestionClosed(self._session_id, ref)
        return question

    def discard(self, ref: str) -> Question | None:
        """Close a question and return it, or None if it is not open."""
        return self._open.pop(ref, None)

    def take_all(self) -> Sequence[Question]:
        """Close every question and return them, in the order in which they were asked."""
        questions = list(self._open.values())
        self._open.clear()
        return questions

    def put_back(self, question: Question) -> None:
        """Open a question again whose answer could not be recorded."""
        self._open[question.request.ref] = question
