"""Tickets, by the clock."""

from __future__ import annotations

import pytest

from relaykit.relay.access import Access
from relaykit.testing.fakes import FakeClock
from relaykit_gateway.credentials import OWN, Caller, Tickets, TooManyTickets

ANN = Caller(Access(owner="ann"), "ann")


def test_a_ticket_is_good_for_a_minute_and_once() -> None:
    clock = FakeClock()
    tickets = Tickets(clock)
    first, second = tickets.issue(ANN), tickets.issue(OWN)
    clock.advance(59.9)
    assert tickets.take(first) == ANN
    assert tickets.take(first) is None
    clock.advance(0.1)
    assert tickets.take(second) is None
    for wrong in ("", "x", "ü", "\udcff"):
        assert tickets.take(wrong) is None


def test_what_is_too_old_makes_room() -> None:
    clock = FakeClock()
    tickets = Tickets(clock)
    for _ in range(64):
        tickets.issue(ANN)
    with pytest.raises(TooManyTickets):
        tickets.issue(ANN)
    tickets.issue(OWN)
    clock.advance(60)
    assert tickets.take(tickets.issue(ANN)) == ANN


def test_what_is_kept_does_not_tell_the_ticket() -> None:
    tickets = Tickets(FakeClock())
    ticket = tickets.issue(ANN)
    assert ticket not in str(vars(tickets))
