"""Webhook: posts what has happened, in the headers of Standard Webhooks, and tries again where that may help."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

import anyio
import httpx
from anyio import CapacityLimiter

from relaykit.clock import Clock
from relaykit.ids import IdGenerator
from relaykit_actions.addresses import Resolve, is_public, resolve
from relaykit_actions.errors import ActionFailed
from relaykit_actions.happenings import Happening
from relaykit_actions.signature import sign

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_DOUBLINGS = 6
_PATIENCE = 3600.0
"""Seconds behind which nobody is asked again, whatever `Retry-After` says."""


class _Again(Exception):
    """An attempt failed, and another may not.

    :param after: seconds that the receiver wants to be left alone.
    """

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long is waited between attempts. Tests bring their own."""

    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    jitter: Callable[[], float] = random.random

    def after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures: doubled each time, and of that the half to the whole."""
        pause = min(_FIRST_PAUSE * 2.0 ** min(failures - 1, _DOUBLINGS), _LONGEST_PAUSE)
        return pause * (0.5 + self.jitter() / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A receiver. Each attempt is a connection of its own, to an address that was looked up and checked for it.

    Nothing of the environment counts: no proxy, no certificates, no ``.netrc``.

    :param keys: what is posted is signed with each; none: it is not signed.
    :param allow_private: post to any address.
    :param retries: how often an attempt that failed is followed by another.
    :param timeout: seconds that one attempt may take.
    """

    url: httpx.URL
    keys: Sequence[bytes] = field(default=(), repr=False)
    allow_private: bool = False
    retries: int
    timeout: float
    clock: Clock
    ids: IdGenerator
    pauses: Pauses = field(default_factory=Pauses)
    find: Resolve = resolve
    tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context, repr=False)

    async def do(self, happening: Happening, slots: CapacityLimiter) -> None:
        """Post it, in as many attempts as that takes; between them, `slots` are for others.

        :raises ActionFailed: the receiver does not want it, its address is not for us, or it was tried often enough.
        """
        message_id, body = f"msg_{self.ids.new_id()}", happening.as_json()
        failures = 0
        while True:
            try:
                async with slots:
                    await self._attempt(message_id, body)
            except _Again as again:
                failures += 1
                if failures > self.retries:
                    times = "once" if failures == 1 else f"{failures} times"
                    raise ActionFailed(f"{again}; it was tried {times}") from again
                if again.after > _PATIENCE:
                    raise ActionFailed(
                        f"{again}, and wants to be left alone for {again.after:.0f} s"
                    ) from again
                await self.pauses.sleep(max(again.after, self.pauses.after(failures)))
            else:
                return

    async def _attempt(self, message_id: str, body: bytes) -> None:
        try:
            with anyio.fail_after(self.timeout):
                response = await self._post(self._headers(message_id, body), body)
        except TimeoutError:
            raise _Again(f"no answer within {self.timeout:g} s") from None
        except (httpx.TransportError, OSError) as error:
            raise _Again(_why(error)) from error
        status = response.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            after = seconds_of(response.headers.get("retry-after", ""), now=self.clock.now())
            raise _Again(f"the answer is {status}", after)
        if response.is_redirect:
            raise ActionFailed(f"the answer is {status}, a redirect, which is not followed: correct `post`")
        if not response.is_success:
            raise ActionFailed(f"the answer is {status}")

    def _headers(self, message_id: str, body: bytes) -> Mapping[str, str]:
        timestamp = int(self.clock.now().timestamp())
        headers = {
            "host": self.url.netloc.decode(),
            "content-type": "application/json",
            "user-agent": "relaykit",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
        }
        if self.keys:
            headers["webhook-signature"] = sign(
                self.keys, message_id=message_id, timestamp=timestamp, body=body
            )
        return headers

    async def _post(self, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """Post once, to the first address that takes a connection. What is answered is not read."""
        host = self.url.raw_host.decode()
        addresses = await self._addresses(host)
        for place, address in enumerate(addresses, 1):
            # The address is what was checked: looked up again for the connection, the name might have another.
            request = httpx.Request(
                "POST",
                self.url.copy_with(host=address),
                headers=headers,
                content=body,
                extensions={
                    "sni_hostname": host,  # the certificate is the name's
                    "timeout": {"connect": self.timeout / len(addresses)},
                },
            )
            async with httpx.AsyncHTTPTransport(verify=self.tls, trust_env=False) as transport:
                try:
                    response = await transport.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if place == len(addresses):
                        raise
                    continue
                await response.aclose()
                return response
        raise AssertionError  # there is at least one address

    async def _addresses(self, host: str) -> Sequence[str]:
        port = self.url.port or (443 if self.url.scheme == "https" else 80)
        found = await self.find(host, port)
        allowed = [address for address in found if self.allow_private or is_public(address)]
        if found and not allowed:
            raise ActionFailed(
                f"the host is at {found[0]}, which is not on the public internet: `allow_private = true` allows that"
            )
        if not allowed:
            raise OSError("the host has no address")
        return allowed


def _why(error: BaseException) -> str:
    """Return what an error says; if that is nothing, what those say that led to it."""
    telling: BaseException | None = error
    while telling is not None and not str(telling):
        telling = telling.__cause__ or telling.__context__
    return f"{type(error).__name__}: {telling or 'nobody says why'}"


def seconds_of(retry_after: str, *, now: datetime) -> float:
    """Return the seconds that a ``Retry-After`` means, a number or a date (RFC 9110, 10.2.3); 0 for anything else."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:12])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now).total_seconds())
    except (ValueError, TypeError):  # TypeError: a date without a zone
        return 0.0
