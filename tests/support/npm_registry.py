"""A registry of npm packages on loopback, with one package: the echo agent under another name."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relaykit_acp.finding import ECHO

PACKAGE = "@relaykit-test/tiny-agent"
PROGRAM = "tiny-agent"

needs_npx = pytest.mark.skipif(shutil.which("npx") is None, reason="npx (Node.js) is not installed")


class Registry:
    """What npm is told, and what it asked for.

    :param url: where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self._archives: dict[str, bytes] = {}

    def publish(self, version: str, *, programs: tuple[str, ...] = (PROGRAM,), says: str = "") -> None:
        """Add a version.

        :param says: what its program writes to its standard error when it starts.
        """
        self._archives[version] = _archive(version, programs, says)

    def environment(self, home: Path) -> dict[str, str]:
        """Return what an npm of its own needs to use this registry and nobody's files."""
        return {
            "HOME": str(home),
            "npm_config_cache": str(home / "npm"),
            "npm_config_registry": self.url,
            "npm_config_fetch_retries": "0",
            "npm_config_update_notifier": "false",
            "npm_config_audit": "false",
        }

    def archives_asked(self) -> list[str]:
        """Return the archives that were asked for."""
        return [path for path in self.asked if path.endswith(".tgz")]

    def answer(self, path: str) -> bytes | None:
        """Return what is at a path."""
        if path.endswith(".tgz"):
            return self._archives.get(path.rpartition("/")[2].removesuffix(".tgz"))
        if path.lower().replace("%2f", "/") != f"/{PACKAGE}":
            return None
        versions = {
            version: {
                "name": PACKAGE,
                "version": version,
                "bin": _description(archive)["bin"],
                "dist": {
                    "tarball": f"{self.url}{version}.tgz",
                    "integrity": f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}",
                },
            }
            for version, archive in self._archives.items()
        }
        latest = list(versions)[-1]
        return json.dumps({"name": PACKAGE, "dist-tags": {"latest": latest}, "versions": versions}).encode()


@contextmanager
def npm_registry() -> Iterator[Registry]:
    """Run a registry."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.asked.append(self.path)
            registry.open.wait(60)
            body = registry.answer(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"{}")))
            self.end_headers()
            self.wfile.write(body if body is not None else b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry = Registry(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield registry
        finally:
            registry.open.set()
            server.shutdown()
            thread.join()


def _archive(version: str, programs: tuple[str, ...], says: str) -> bytes:
    script = f'#!/bin/sh\n{f"echo {says} >&2" if says else ""}\nexec {" ".join(ECHO.command)} "$@"\n'
    description = {"name": PACKAGE, "version": version, "bin": dict.fromkeys(programs, "run.sh")}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (("package.json", json.dumps(description)), ("run.sh", script)):
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def _description(archive: bytes) -> dict[str, object]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        file = packed.extractfile("package/package.json")
        assert file is not None
        described: dict[str, object] = json.loads(file.read())
    return described
