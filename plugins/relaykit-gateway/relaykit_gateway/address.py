"""Where the running relay of this user is, and the token that it wants."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from relaykit.errors import RelaykitError
from relaykit.relay.running import read_running
from relaykit.settings import Settings
from relaykit_gateway.settings import GatewaySettings
from relaykit_gateway.token import token_path


class ClientError(RelaykitError):
    """A relay could not be used from outside. The base of what this package's clients raise."""


class NoRelayRunning(ClientError):
    """No relay with a gateway runs on this state directory."""


@dataclass(frozen=True, slots=True)
class Address:
    """How a relay is reached.

    :param url: ``http://host:port``, without a path.
    :param token: None where none is wanted.
    """

    url: str
    token: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host to connect to."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port to connect to."""
        return urlsplit(self.url).port or 80

    @property
    def headers(self) -> dict[str, str]:
        """The headers by which the relay knows that we may."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


def find_relay(settings: Settings) -> Address:
    """Return the address of the relay that runs on the settings' state directory. Reads files: blocks.

    :raises NoRelayRunning: none does, or it has no gateway; the message says how to start one.
    :raises ClientError: its token cannot be read.
    :raises SettingsError: ``[plugins.gateway]`` is wrong.
    """
    running = read_running(settings.state_dir)
    if running is None:
        raise NoRelayRunning(
            f"no relay runs on the state directory {str(settings.state_dir)!r}: start one with `relaykit serve`"
        )
    if not running.url:
        raise NoRelayRunning(f"the relay with pid {running.pid} has no gateway that could be reached (yet)")
    return Address(running.url, _read_token(settings))


def _read_token(settings: Settings) -> str | None:
    gateway = settings.plugin("gateway", GatewaySettings)
    if not gateway.auth:
        return None
    if gateway.token:
        return gateway.token
    path = token_path(settings.state_dir)
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ClientError(f"the relay's token cannot be read from {str(path)!r}: {error.strerror}") from error
