"""A real Prometheus, where one is installed, that scrapes what a test tells it to."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.scraping import Series, series

PROGRAM = shutil.which("prometheus")
SCRAPE_SECONDS = 0.5

_START = 20.0


@dataclass(frozen=True)
class Target:
    """What is scraped.

    :param token: a file with the token that it wants.
    """

    job: str
    address: str
    token: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return its part of the configuration."""
        authorization = {"authorization": {"credentials_file": str(self.token)}} if self.token else {}
        return {"job_name": self.job, "static_configs": [{"targets": [self.address]}], **authorization}


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **params: str) -> Any:
        """Return the data of an answer of its API."""
        query = urllib.parse.urlencode(params)
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{query}", timeout=_START) as answer:
            return json.load(answer)["data"]

    def series(self, job: str) -> dict[Series, float]:
        """Return all that it knows now of one target's, as a scrape would show it."""
        found = self.get("query", query=f'{{job="{job}", __name__=~"relaykit_.+"}}')["result"]
        values: dict[Series, float] = {}
        for each in found:
            labels = {key: value for key, value in each["metric"].items() if key not in {"job", "instance"}}
            values[series(labels.pop("__name__"), **labels)] = float(each["value"][1])
        return values


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def prometheus(
    directory: Path, targets: Sequence[Target], *, rules: Mapping[str, bytes]
) -> Iterator[Prometheus]:
    """Run it, with all that it keeps in `directory`, until the end of the block.

    :param rules: rule files by name.
    """
    assert PROGRAM is not None
    directory.mkdir()
    for name, content in rules.items():
        (directory / name).write_bytes(content)
    interval = f"{int(SCRAPE_SECONDS * 1000)}ms"
    config = {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1s"},
        "rule_files": list(rules),
        "scrape_configs": [target.as_json() for target in targets],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{free_port()}"
    command = [
        PROGRAM,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START
        while not _is_ready(f"http://{address}/-/ready"):
            said = (directory / "log").read_text()
            assert process.poll() is None, f"Prometheus ended: {said}"
            assert time.monotonic() < deadline, f"Prometheus does not start: {said}"
            time.sleep(0.05)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        try:
            process.wait(_START)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:  # it does not listen yet, or says 503
        return False
