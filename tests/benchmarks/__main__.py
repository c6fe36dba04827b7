"""The benchmarks: ``uv run python tests/benchmarks [BENCHMARK …] [--json FILE]``.

Each figure stands beside a reference that was measured in the same run, turn by turn, because machines are
shared and noisy: a ratio means more than a number.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `support`, as pytest has it

from attach import measure_attach
from bridges import measure_bridges
from connect import measure_connect
from durable import measure_durable
from figures import Figure, print_table
from life import measure_life
from memory import measure_memory
from messages import measure_messages
from metrics import measure_metrics
from sessions import measure_sessions
from spawning import measure_spawning
from storage import measure_storage
from worktrees import measure_worktrees

BENCHMARKS = {
    "life": measure_life,
    "messages": measure_messages,
    "sessions": measure_sessions,
    "memory": measure_memory,
    "bridges": measure_bridges,
    "connect": measure_connect,
    "durable": measure_durable,
    "storage": measure_storage,
    "attach": measure_attach,
    "spawning": measure_spawning,
    "worktrees": measure_worktrees,
    "metrics": measure_metrics,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", help=f"of {', '.join(BENCHMARKS)}; by default all")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.which) - BENCHMARKS.keys()):
        parser.error(f"there is no benchmark {unknown[0]!r}")

    figures: list[Figure] = []
    for name in arguments.which or BENCHMARKS:
        print(f"… {name}", file=sys.stderr, flush=True)
        figures += BENCHMARKS[name](scale=0.1 if arguments.quick else 1.0)
    print_table(figures)
    if arguments.json:
        machine = {"python": platform.python_version(), "machine": platform.platform()}
        rows = [figure.as_json() for figure in figures]
        arguments.json.write_text(json.dumps({**machine, "figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
