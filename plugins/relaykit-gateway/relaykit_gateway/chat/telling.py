"""Teller: what hears a recorded transcript. The contract alone."""

from __future__ import annotations

from typing import Protocol

from relaykit_gateway.acp_client import Json


class Teller(Protocol):
    """Hears what happened in a session, in order."""

    def prompt(self, text: str, at: str) -> None:
        """Hear what somebody said to the agent, and when: a turn begins."""
        ...

    def update(self, update: Json) -> None:
        """Hear what the agent said or did: ACP's object."""
        ...

    def question(self, method: str, params: Json) -> None:
        """Hear what the agent asked."""
        ...

    def answer(self, words: str) -> None:
        """Hear what was answered, in words; also that nobody did."""
        ...

    def turn_end(self, stop_reason: str, error: str) -> None:
        """Hear how the turn ended.

        :param error: why it failed, or was interrupted; empty if it was not.
        """
        ...

    def notice(self, word: str, body: Json) -> None:
        """Hear what the relay itself said."""
        ...

    def call(self, method: str, params: Json) -> None:
        """Hear what else was asked of the agent."""
        ...
