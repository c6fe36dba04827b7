"""The echo agent with more faults. Standard library only, and quick to start, as it is.

``python -I -S faulty_agent.py [FLAG …]``. More directives:

=============================== ==========================================================================
``/children N [HOW …]``         start N children that ignore TERM and hold stdout; HOW: ``setsid``: in sessions
                                of their own; ``group``: in groups of their own; ``orphan``: by a parent that
                                ends at once; ``bare``: so, and with no environment
=============================== ==========================================================================

More flags:

==================== ====================================================================================
``--do DIRECTIVE``   do this at the start
``--crash-within S`` exit with 1 at a random moment
==================== ====================================================================================
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from relaykit_acp.echo_agent import Echo
else:
    # By its place, and not as a part of its package, which would take longer to import than all the rest.
    sys.path.insert(0, __file__.rpartition("/tests/")[0] + "/plugins/relaykit-acp/relaykit_acp")
    from echo_agent import Echo

COMMAND = (sys.executable, "-I", "-S", __file__)

_LIFETIME = 600
_BARE = f"import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep({_LIFETIME})"


class Faulty(Echo):
    def __init__(self, flags: list[str]) -> None:
        super().__init__(flags)
        self._directives["/children"] = self._start_children

    def run(self) -> None:
        if "--crash-within" in self._flags:
            moment = max(1, os.urandom(1)[0]) / 256 * float(self._flag("--crash-within"))
            signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
            signal.setitimer(signal.ITIMER_REAL, moment)
        if "--do" in self._flags:
            directive, *words = self._flag("--do").split()
            self._directives[directive](words)
        super().run()

    def _start_children(self, words: list[str]) -> str:
        ready, tell = os.pipe()
        for _ in range(int(words[0])):
            child = os.fork()
            if child == 0:
                self._be_a_child(words, tell)
            elif {"orphan", "bare"}.intersection(words):
                os.waitpid(child, 0)
        os.close(tell)
        told = b""
        while told.count(b" ") < int(words[0]):
            told += os.read(ready, 65536)
        os.close(ready)
        return f"children: {told.decode().strip()}"

    @staticmethod
    def _be_a_child(words: list[str], tell: int) -> None:
        if "orphan" in words and os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "setsid" in words:
            os.setsid()
        elif "group" in words:
            os.setpgid(0, 0)
        if "bare" in words:
            ours, theirs = os.pipe()
            if (child := os.fork()) == 0:
                os.dup2(theirs, 1)
                os.execve(sys.executable, [sys.executable, "-ISc", _BARE], {})
            os.read(ours, 1)
            os.write(tell, b"%d " % child)
            os._exit(0)
        os.write(tell, b"%d " % os.getpid())
        time.sleep(_LIFETIME)
        os._exit(0)


if __name__ == "__main__":
    try:
        Faulty(sys.argv[1:]).run()
    except BrokenPipeError:
        sys.exit(0)
