"""The recipes in examples/deployment: the proxies that they are for, in front of a relay."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from support.certificates import make_certificate
from support.servers import Server, relay

RECIPES = Path(__file__).parents[2] / "examples" / "deployment"
NAME = "relay.example.com"
TAILNET = "machine.tailnet.ts.net"
UPDATES = 2000
SECONDS = 30.0


@dataclass(frozen=True)
class Front:
    """A proxy with TLS in front of a relay, reached by a name that leads here."""

    name: str
    port: int
    server: Server
    trust: ssl.SSLContext

    def get(
        self, path: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, Mapping[str, str]]:
        """Return the status and the headers of the answer."""
        connection = http.client.HTTPSConnection(self.name, context=self.trust, timeout=SECONDS)
        reached = socket.create_connection(("127.0.0.1", self.port), SECONDS)
        with self.trust.wrap_socket(reached, server_hostname=self.name) as connection.sock:
            connection.request("GET", path, headers={"Connection": "close", **headers})
            answer = connection.getresponse()
            answer.read()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    def client(self, origin: str) -> connect:
        headers = {**self.server.headers, "Origin": origin}
        return connect(
            f"wss://{self.name}/acp?agent=echo",
            host="127.0.0.1",
            port=self.port,
            proxy=None,
            ssl=self.trust,
            server_hostname=self.name,
            additional_headers=headers,
            open_timeout=SECONDS,
        )


def nginx(scratch: Path, port: int, upstream: str) -> list[str]:
    recipe = (RECIPES / "nginx.conf").read_text()
    for shown, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/relay.example.com.pem", f"{scratch}/cert.pem"),
        ("/etc/ssl/relay.example.com.key", f"{scratch}/key.pem"),
        ("http://127.0.0.1:7433", upstream),
    ):
        assert recipe.count(shown) == 1
        recipe = recipe.replace(shown, here)
    (scratch / "relay.conf").write_text(recipe)
    temporary = "".join(
        f"{kind}_temp_path {scratch}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (scratch / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {scratch}/pid; error_log stderr; events {{}}\n"
        f"http {{ {temporary} include {scratch}/relay.conf; }}\n"
    )
    return ["nginx", "-p", str(scratch), "-e", "stderr", "-c", str(scratch / "nginx.conf")]


def caddy(scratch: Path, port: int, upstream: str) -> list[str]:
    recipe = (RECIPES / "Caddyfile").read_text()
    for shown, here in (
        (f"{NAME} {{", f"{NAME} {{\n\tbind 127.0.0.1\n\ttls {scratch}/cert.pem {scratch}/key.pem"),
        ("127.0.0.1:7433", upstream.removeprefix("http://")),
    ):
        assert recipe.count(shown) == 1
        recipe = recipe.replace(shown, here)
    return run_caddy(scratch, port, recipe)


def as_tailscale(scratch: Path, port: int, upstream: str) -> list[str]:
    """Stand in for ``tailscale serve``, which needs an account: forward as ``ipn/ipnlocal/serve.go`` of Tailscale does.

    The Host stays as it came; ``X-Forwarded-…`` and who it is in the tailnet are added.
    """
    return run_caddy(
        scratch,
        port,
        f"{TAILNET} {{\n bind 127.0.0.1\n tls {scratch}/cert.pem {scratch}/key.pem\n"
        f" reverse_proxy {upstream.removeprefix('http://')} {{\n"
        "  header_up X-Forwarded-Host {host}\n  header_up X-Forwarded-Proto https\n"
        "  header_up X-Forwarded-For 100.64.0.7\n  header_up Tailscale-User-Login me@example.com\n }\n}\n",
    )


def run_caddy(scratch: Path, port: int, recipe: str) -> list[str]:
    options = (
        "admin off",
        "auto_https disable_redirects",
        f"https_port {port}",
        f"storage file_system {scratch}",
    )
    (scratch / "Caddyfile").write_text("\n".join(["{", *options, "}", recipe]))
    return ["caddy", "run", "--config", str(scratch / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(
    params=[("nginx", nginx, NAME), ("caddy", caddy, NAME), ("caddy", as_tailscale, TAILNET)],
    ids=["nginx", "caddy", "as-tailscale"],
    scope="module",
)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    make: Callable[[Path, int, str], list[str]]
    proxy, make, name = request.param
    for program in (proxy, "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"SKIPPED: {program} is not installed here; .ci/run installs it")
    scratch = tmp_path_factory.mktemp("proxy")
    certificate, _ = make_certificate(scratch, f"DNS:{name}")
    trust = ssl.create_default_context(cafile=str(certificate))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    variables = {"RELAYKIT_PLUGINS__GATEWAY__PUBLIC_URL": f"https://{name}"}
    with relay(variables=variables) as server:
        upstream = server.url.replace("ws://", "http://").removesuffix("/ws")
        with running(make(scratch, port, upstream), scratch, port):
            yield Front(name, port, server, trust)


@contextmanager
def running(command: list[str], scratch: Path, port: int) -> Iterator[None]:
    """Run a proxy until the end of the block; it begins when the port is open."""
    log = scratch / "log"
    with log.open("wb") as output:
        environment = {"HOME": str(scratch), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ask(
    client: ClientConnection, number: int, method: str, params: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """Call a method, and return its result and how many notifications came before."""
    await client.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
    came = 0
    while True:
        with anyio.fail_after(SECONDS):
            message = json.loads(await client.recv())
        if message.get("id") == number and "method" not in message:
            result: dict[str, Any] = message["result"]
            return result, came
        came += message.get("method") == "session/update"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the client's only one
async def test_a_conversation_goes_through(front: Front) -> None:
    async with front.client(f"https://{front.name}") as client:
        await ask(client, 1, "initialize", {"protocolVersion": 1, "clientCapabilities": {}})
        opened, _ = await ask(client, 2, "session/new", {"cwd": "/", "mcpServers": []})
        prompt = [{"type": "text", "text": f"/stream {UPDATES} 200"}]
        ended, came = await ask(
            client, 3, "session/prompt", {"sessionId": opened["sessionId"], "prompt": prompt}
        )
        assert ended["stopReason"] == "end_turn"
        assert came >= UPDATES
        await ask(client, 4, "session/close", {"sessionId": opened["sessionId"]})


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_foreign_page_stays_outside(front: Front) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with front.client("https://elsewhere.example"):
            pass
    assert caught.value.response.status_code == 403


def test_the_link_gives_a_cookie_for_this_name_alone(front: Front) -> None:
    assert front.get("/healthz")[0] == 200
    assert front.get("/api/sessions")[0] == 401
    token = front.server.headers["Authorization"].removeprefix("Bearer ")
    status, headers = front.get(f"/?token={token}")
    assert (status, headers["location"]) == (303, "/")
    assert "secure" in headers["set-cookie"].lower()
    assert "httponly" in headers["set-cookie"].lower()


def test_who_a_proxy_says_it_is_opens_nothing(front: Front) -> None:
    said = {"X-Forwarded-For": "127.0.0.1", "Tailscale-User-Login": "me@example.com"}
    assert front.get("/api/sessions", said)[0] == 401
