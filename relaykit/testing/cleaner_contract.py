"""CleanerContract: the tests that every `Cleaner` must pass.

::

    class TestArchiveCleaner(CleanerContract):
        @pytest.fixture
        def cleaner(self) -> Cleaner:
            return ArchiveCleaner()

        @pytest.fixture
        def acquire(self, tmp_path: Path) -> Acquire:
            async def acquire() -> Session:
                path = tmp_path / f"{uuid4()}.tar"
                path.touch()
                return make_session(path.stem, resources={"archive": {"path": str(path)}})

            return acquire

        @pytest.fixture
        def is_released(self) -> IsReleased:
            async def is_released(session: Session) -> bool:
                return not Path(session.resources["archive"]["path"]).exists()

            return is_released
"""
# ruff: noqa: S101, D102 -- a test suite: it asserts, and its tests' names say what they show

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from relaykit.session import Cleaner, CleanerResult, Handle, Outcome, Phase, Session
from relaykit.testing.fakes import FakeConnection
from relaykit.testing.interruption import interruptions
from relaykit.testing.sessions import make_session

PATIENCE = 30.0
"""Seconds that one cleaning may take, as by default in a relay."""

Acquire = Callable[[], Awaitable[Session]]
"""Acquires something for a new session, and returns the session with that recorded, as the store would."""

IsReleased = Callable[[Session], Awaitable[bool]]
"""Looks whether nothing of that is left."""


class CleanerContract:
    """What holds for every cleaner. Override `cleaner`, `acquire` and `is_released`; and the rest where it is so."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def cleaner(self) -> Cleaner:
        """Return the cleaner."""
        raise NotImplementedError("a subclass of CleanerContract overrides the fixture `cleaner`")

    @pytest.fixture
    def acquire(self) -> Acquire:
        """Return what acquires something that the cleaner releases, each time for a session of its own."""
        raise NotImplementedError("a subclass of CleanerContract overrides the fixture `acquire`")

    @pytest.fixture
    def is_released(self) -> IsReleased:
        """Return what tells whether it was released."""
        raise NotImplementedError("a subclass of CleanerContract overrides the fixture `is_released`")

    @pytest.fixture
    def keeps(self) -> Acquire | None:
        """Return what acquires something that must be kept, because removing it would lose something. None: nothing."""
        return None

    @pytest.fixture
    def needs_record(self) -> bool:
        """Tell whether the cleaner has nothing to do for a session that has recorded nothing. Most do."""
        return True

    # ------------------------------------------------------------ what it says

    async def test_it_has_a_name_and_a_phase(self, cleaner: Cleaner) -> None:
        assert isinstance(cleaner.name, str)
        assert cleaner.name
        assert isinstance(cleaner.phase, Phase)

    async def test_a_session_with_nothing_recorded_is_none_of_its_business(
        self, cleaner: Cleaner, *, needs_record: bool
    ) -> None:
        result = await _clean(cleaner, make_session("nothing-recorded"))
        assert result.outcome in ({Outcome.SKIPPED} if needs_record else {Outcome.SKIPPED, Outcome.DONE})

    # ------------------------------------------------------------ releasing

    async def test_what_is_recorded_is_released_without_a_handle(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        session = await acquire()
        assert not await is_released(session), "`acquire` has acquired nothing, or `is_released` is wrong"
        result = await _clean(cleaner, session)
        assert result.outcome is Outcome.DONE, result.detail
        assert await is_released(session)

    async def test_and_with_one_that_has_no_agent(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        session = await acquire()
        handle = Handle(connection=FakeConnection(), scope=anyio.CancelScope())
        result = await _clean(cleaner, session, handle)
        assert result.outcome is Outcome.DONE, result.detail
        assert await is_released(session)

    async def test_it_may_run_again(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        session = await acquire()
        await _clean(cleaner, session)
        again = await _clean(cleaner, session)
        assert again.outcome in {Outcome.DONE, Outcome.SKIPPED}, again.detail
        assert await is_released(session)

    async def test_other_sessions_are_left_alone(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        first, second = await acquire(), await acquire()
        await _clean(cleaner, first)
        assert not await is_released(second)
        await _clean(cleaner, second)
        assert await is_released(second)

    async def test_sessions_are_cleaned_at_the_same_time(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        sessions = [await acquire() for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(_clean, cleaner, session)
        assert [await is_released(session) for session in sessions] == [True] * 3

    async def test_cut_off_on_its_way_it_ends_its_work_the_next_time(
        self, cleaner: Cleaner, acquire: Acquire, is_released: IsReleased
    ) -> None:
        for attempt in interruptions():
            session = await acquire()
            await attempt(cleaner.clean(session, None))
            result = await _clean(cleaner, session)
            assert result.outcome in {Outcome.DONE, Outcome.SKIPPED}, result.detail
            assert await is_released(session)

    async def test_what_must_be_kept_is_kept_and_it_says_why(
        self, cleaner: Cleaner, keeps: Acquire | None, is_released: IsReleased
    ) -> None:
        if keeps is None:
            pytest.skip("this cleaner keeps nothing")
        session = await keeps()
        for _ in range(2):
            result = await _clean(cleaner, session)
            assert result.outcome is Outcome.KEPT
            assert result.detail
            assert not await is_released(session)


async def _clean(cleaner: Cleaner, session: Session, handle: Handle | None = None) -> CleanerResult:
    with anyio.fail_after(PATIENCE):
        result = await cleaner.clean(session, handle)
    assert isinstance(result, CleanerResult)
    assert result.cleaner == cleaner.name
    assert result.outcome is not Outcome.FAILED, result.detail
    return result
