"""relaykit.client: what an installed package brings under this name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

import relaykit.client
import relaykit_gateway.client


@pytest.fixture
def _forgotten() -> Iterator[None]:
    relaykit.client._installed.cache_clear()
    yield
    relaykit.client._installed.cache_clear()


def test_it_is_the_gateways() -> None:
    for name in relaykit_gateway.client.__all__:
        assert getattr(relaykit.client, name) is getattr(relaykit_gateway.client, name)
    with pytest.raises(ImportError, match="cannot import name 'conect'"):
        exec("from relaykit.client import conect")


def test_the_name_alone_imports_no_plugin() -> None:
    code = (
        "import sys, relaykit.client; assert 'relaykit_gateway' not in sys.modules; relaykit.client.connect"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), "pip install relaykit-gateway"),
        (("acme.client", "relaykit_gateway.client"), "acme.client, relaykit_gateway.client"),
    ],
)
def test_there_must_be_one(monkeypatch: pytest.MonkeyPatch, values: tuple[str, ...], said: str) -> None:
    def announced(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("scripts", value, group) for value in values]

    monkeypatch.setattr(relaykit.client, "entry_points", announced)
    with pytest.raises(ModuleNotFoundError, match=said):
        importlib.import_module("relaykit.client").connect  # noqa: B018 -- looking is what fails
