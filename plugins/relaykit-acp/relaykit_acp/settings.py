"""``[plugins.acp]``."""

from __future__ import annotations

from dataclasses import dataclass

from relaykit.settings import setting
from relaykit_acp.limits import LEAST_CPU, size_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpSettings:
    """How agents are started, listened to and stopped."""

    initialize_timeout: float = setting(
        30.0, help="seconds in which an agent must be ready for its first prompt"
    )
    fetch_timeout: float = setting(
        300.0, help="seconds in which npx must have fetched the package that an agent is in"
    )
    max_spawning: int = setting(
        0,
        help="agents that are started at once, those that wake too; the others wait in order. 0 for two a core, at "
        "least 4",
    )
    spawn_queue_timeout: float = setting(
        60.0, help="seconds that an agent may wait for its turn to be started"
    )
    memory_max: str = setting(
        "", help='memory that an agent may use with all that it starts, as `"2G"`; over it the session ends'
    )
    processes_max: int = setting(
        0,
        help="processes and threads of an agent, with all that it starts; over it the session ends. 0 for any",
    )
    cpu_max: float = setting(
        0.0,
        help="CPUs that an agent may use with all that it starts, as `1.5`; it is slowed down to that. 0 for all",
    )
    eof_grace: float = setting(2.0, help="seconds to end in, after its input was closed")
    term_grace: float = setting(5.0, help="seconds to end in, after SIGTERM; then SIGKILL")
    max_frame_bytes: int = setting(32 * 1024 * 1024, help="bytes that one message of an agent may have")
    known_agents: bool = setting(
        True,
        help="offer the known agents that are found here, besides those in `[agents.NAME]`",
    )

    def __post_init__(self) -> None:
        if self.max_spawning < 0:
            raise ValueError(f"max_spawning must be 0 or more, not {self.max_spawning}")
        if self.memory_max:
            size_of(self.memory_max)
        if self.processes_max < 0:
            raise ValueError(f"processes_max must be 0 or more, not {self.processes_max}")
        if self.cpu_max and self.cpu_max < LEAST_CPU:
            raise ValueError(f"cpu_max must be {LEAST_CPU} or more, or 0, not {self.cpu_max:g}")
