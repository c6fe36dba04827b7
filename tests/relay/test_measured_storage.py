"""A storage that is measured does what it does without; and only one that somebody wants to know of is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaykit.agent.launcher import AgentLauncher
from relaykit.conversation import Journal, MemoryJournal
from relaykit.hooks import hookimpl
from relaykit.meter import NO_METER, Meter
from relaykit.relay import Relay
from relaykit.relay.measured_start import MeasuredLauncher
from relaykit.relay.measured_storage import MeasuredJournal, MeasuredStore, measured
from relaykit.session import MemoryStore, Store
from relaykit.testing import FakeClock, JournalContract, StoreContract
from support.plugin_sites import RecordingMeter
from support.relays import Storage, running_relay


class TestMeasuredStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return measured(MemoryStore(), MemoryJournal(), clock=FakeClock(), meter=NO_METER)[0]


class TestMeasuredJournal(JournalContract):
    @pytest.fixture
    def journal(self) -> Journal:
        return measured(MemoryStore(), MemoryJournal(), clock=FakeClock(), meter=NO_METER)[1]


class Metered:
    @hookimpl
    def relaykit_register_meter(self) -> Meter:
        return RecordingMeter()


def parts_of(relay: Relay) -> tuple[Store, Journal, AgentLauncher]:
    [launcher] = relay._sessions._parts.launchers.values()
    return relay.manager._store, relay._transcripts.journal, launcher


@pytest.mark.anyio
async def test_nothing_is_measured_where_nobody_meters(tmp_path: Path) -> None:
    storage = Storage()
    async with running_relay(tmp_path, plugins={"storage": storage}, RELAY__STORAGE="given") as relay:
        store, journal, launcher = parts_of(relay)
        assert (store, journal) == (storage.store, storage.journal)
        assert not isinstance(launcher, MeasuredLauncher)
    plugins = {"storage": storage, "metered": Metered()}
    async with running_relay(tmp_path, plugins=plugins, RELAY__STORAGE="given") as relay:
        store, journal, launcher = parts_of(relay)
        assert isinstance(store, MeasuredStore)
        assert isinstance(journal, MeasuredJournal)
        assert isinstance(launcher, MeasuredLauncher)
        assert store.durable is storage.store.durable
