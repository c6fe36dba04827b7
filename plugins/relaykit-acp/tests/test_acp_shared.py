"""An answer that many want: asked for once, and whose failure is whose."""

from __future__ import annotations

import anyio
import pytest

from relaykit_acp.shared import Shared

pytestmark = pytest.mark.anyio


class Asked:
    """Answers in turn what it was told to."""

    def __init__(self, *answers: int | Exception) -> None:
        self.left = list(answers)

    async def __call__(self) -> int:
        await anyio.lowlevel.checkpoint()
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_is_kept_for_as_long_as_its_key_is_the_same() -> None:
    shared, asked = Shared[int](), Asked(1, 2, 3)
    assert [await shared.get(asked, key=key) for key in "aabba"] == [1, 1, 2, 2, 3]


async def test_who_came_before_a_failure_shares_it_and_who_came_later_does_not() -> None:
    shared, asked = Shared[int](), Asked(OSError("no"), 1)
    came = shared.failures
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            await shared.get(asked, seen=came)  # the second time too: it came before the first had failed
    assert await shared.get(asked) == 1
    assert await shared.get(asked, seen=came) == 1  # an answer is better than an old failure
    assert asked.left == []


async def test_what_failed_for_another_key_leaves_the_answer_that_there_was() -> None:
    shared, asked = Shared[int](), Asked(1, OSError("no"))
    assert await shared.get(asked, key="a") == 1
    with pytest.raises(OSError, match="no"):
        await shared.get(asked, key="b")
    assert await shared.get(asked, key="a") == 1
