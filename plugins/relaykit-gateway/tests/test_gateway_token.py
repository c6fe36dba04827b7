"""The token file, and settings that would leave the door open."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from relaykit.errors import RelaykitError, SettingsError
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.token import load_token, token_path
from support.gateways import gateway_settings


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    token = load_token(GatewaySettings(), tmp_path)
    assert token is not None
    assert len(token) >= 43  # 256 bits
    path = token_path(tmp_path)
    assert path == tmp_path / "gateway" / "token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_token(GatewaySettings(), tmp_path) == token
    assert list(path.parent.iterdir()) == [path]  # nothing is left of how it was made


def test_two_relays_do_not_share_one(tmp_path: Path) -> None:
    first, second = (load_token(GatewaySettings(), tmp_path / name) for name in "ab")
    assert first != second


def test_one_that_others_could_read_is_made_private_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = load_token(GatewaySettings(), tmp_path)
    token_path(tmp_path).chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert load_token(GatewaySettings(), tmp_path) == token
    assert token_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert "private" in caplog.text
    assert str(token) not in caplog.text


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    token_path(tmp_path).parent.mkdir()
    token_path(tmp_path).touch(mode=0o600)
    with pytest.raises(RelaykitError, match="is empty: delete it"):
        load_token(GatewaySettings(), tmp_path)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gateway").touch()
    with pytest.raises(RelaykitError, match="cannot be kept"):
        load_token(GatewaySettings(), tmp_path)


def test_settings_go_before_the_file(tmp_path: Path) -> None:
    settings = GatewaySettings(token="0123456789abcdef")
    assert load_token(settings, tmp_path) == "0123456789abcdef"
    assert not token_path(tmp_path).exists()
    assert "0123456789abcdef" not in repr(settings)


def test_no_auth_needs_none(tmp_path: Path) -> None:
    assert load_token(GatewaySettings(auth=False), tmp_path) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9", "::ffff:127.0.0.1"])
def test_no_auth_on_loopback(host: str) -> None:
    assert GatewaySettings(host=host, auth=False).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "relay.example.com", "", "::ffff:10.0.0.1"])
def test_no_auth_elsewhere_is_refused(host: str, tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path, gateway=f'host = "{host}"\nauth = false')
    with pytest.raises(SettingsError, match="auth = false"):
        settings.plugin("gateway", GatewaySettings)


@pytest.mark.parametrize(
    "line",
    [
        "port = 65536",
        "port = -1",
        'token = "short"',
        'token = "a token with spaces in it"',
        'public_url = "relay.example.com"',
        'public_url = "ftp://relay.example.com"',
        'public_url = "https://relay.example.com/path"',
        'origins = ["https://user@host"]',
        'origins = ["*"]',
        "max_message_bytes = 0",
        "ping_interval = 0",
        "pong_timeout = -1",
    ],
)
def test_settings_that_make_no_sense(line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        gateway_settings(tmp_path, gateway=line).plugin("gateway", GatewaySettings)
    assert "short" not in str(error.value)
