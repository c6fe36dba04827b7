"""The Containerfile in examples/deployment, as far as it goes without a container: its own lines, run here."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from support.worktrees import make_repository

ROOT = Path(__file__).parents[2]
SECONDS = 30.0


def instructions() -> list[tuple[str, str]]:
    """Return the Containerfile's instructions, each with what follows it."""
    text = (ROOT / "examples" / "deployment" / "Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


def only(name: str, part: str = "") -> str:
    """Return what follows the one instruction of this name that has this part in it."""
    (found,) = (rest for instruction, rest in instructions() if instruction == name and part in rest)
    return found


def with_ours(text: str, ours: Mapping[str, str]) -> str:
    """Return a line of the Containerfile with our places instead of the image's, all of which it must name."""
    for shown, here in ours.items():
        assert shown in text
        text = text.replace(shown, here)
    return text


def build(scratch: Path) -> Path:
    """Do what the stage `build` does, with what it copies and nothing else, and return the directory of programs."""
    checkout, environment = scratch / "checkout", scratch / "relaykit"
    checkout.mkdir()
    for copied in (rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest):
        *sources, target = copied
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source, checkout / target, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy(ROOT / source, checkout / target)
    command = with_ours(
        f"export {only('ENV', 'UV_')}; {only('RUN', 'uv sync')}",
        {
            "/opt/uv/bin/": "",
            "/opt/relaykit": str(environment),
            "/usr/bin/python3": sys.executable,
            " --no-cache": "",
        },
    )
    subprocess.run(["sh", "-ec", command], cwd=checkout, timeout=100, check=True)
    writable = [
        path for path in environment.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002
    ]
    assert writable == []
    return environment / "bin"


def test_its_lines_build_and_run_a_relay(tmp_path: Path) -> None:
    programs, home = build(tmp_path), tmp_path / "home"
    home.mkdir()
    work = make_repository(tmp_path / "work")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    variables = dict(each.split("=", 1) for each in only("ENV", "RELAYKIT_").split())
    assert variables.pop("PATH") == "/opt/relaykit/bin:$PATH"
    environment = {
        **variables,
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "RELAYKIT_PLUGINS__GATEWAY__PORT": port,
    }
    # By their paths: Popen looks programs up in our PATH, not in the one that it hands on.
    health = json.loads(with_ours(only("HEALTHCHECK").partition("CMD ")[2], {only("EXPOSE"): port}))
    health[0] = shutil.which(health[0], path=environment["PATH"])
    serve = json.loads(only("CMD"))
    serve[0] = programs / serve[0]

    def is_healthy() -> bool:
        done = subprocess.run(health, env=environment, capture_output=True, timeout=SECONDS, check=False)
        return done.returncode == 0

    assert not is_healthy()
    relay = subprocess.Popen(serve, cwd=work, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + SECONDS
        while not is_healthy():
            assert relay.poll() is None
            assert time.monotonic() < deadline
        said = subprocess.run(
            [serve[0], "run", "--agent", "echo", "hello"],
            cwd=work,
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            text=True,
            check=True,
        )
        assert said.stdout == "hello\n"
        relay.send_signal(signal.Signals[only("STOPSIGNAL")])
        announced, _ = relay.communicate(timeout=SECONDS)
    finally:
        relay.kill()
        relay.wait()
    assert relay.returncode == 0
    assert announced.startswith(f"{variables['RELAYKIT_PLUGINS__GATEWAY__PUBLIC_URL']}/?token=")
    # All that it keeps is below what is to be the volume.
    assert [entry.name for entry in home.iterdir()] == [".local"]


def test_the_readme_runs_it_as_it_is_made() -> None:
    readme = (ROOT / "README.md").read_text()
    volume, port = only("VOLUME"), only("EXPOSE")
    assert only("ENV", "PUBLIC_URL").endswith(f":{port}")
    assert port in only("HEALTHCHECK")
    (build_command,) = re.findall(r"^\$ (podman build .*)$", readme, re.MULTILINE)
    (run_command,) = re.findall(r"^\$ (podman run (?:.*\\\n)*.*)$", readme, re.MULTILINE)
    assert f"--build-arg {only('ARG').partition('=')[0]}=" in build_command
    assert "--format docker" in build_command  # or there is no HEALTHCHECK
    assert f"-v relaykit-home:{volume} " in run_command
    assert f"-p 127.0.0.1:{port}:{port} " in run_command
