"""`relaykit connect` to a relay behind TLS."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.certificates import make_certificate
from support.connecting import connect_editor
from support.cutting_proxy import CuttingProxy, cutting_proxy
from support.servers import relay

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="there is no openssl, which makes the certificate"
)


@dataclass(frozen=True)
class Front:
    """A relay behind TLS.

    :param certificate: of the front, signed by itself.
    """

    proxy: CuttingProxy
    token: str
    certificate: str


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    here = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(here, "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with cutting_proxy(context) as proxy:
        (here / "relaykit.toml").write_text(f'[plugins.gateway]\npublic_url = "{proxy.url}"\n')
        with relay(project=here) as server:
            proxy.forward_to(server.url)
            token = server.headers["Authorization"].removeprefix("Bearer ")
            yield Front(proxy, token, str(certificate))


def test_a_conversation_by_tls_that_is_cut(front: Front) -> None:
    with connect_editor(
        front.proxy.url, RELAYKIT_TOKEN=front.token, SSL_CERT_FILE=front.certificate
    ) as editor:
        session_id = editor.open_session()
        for _ in range(2):
            prompt = editor.prompt(session_id, "/stream 5000 100")
            front.proxy.wait_quiet(0.01)
            front.proxy.cut_once()
            assert editor.hear_answer(prompt)["result"]["stopReason"] == "end_turn"
        assert [chunk[:7] for chunk in editor.chunks()] == [f"{number:07}" for number in range(5000)] * 2
        big = editor.prompt(session_id, "x" * 3_000_000)
        editor.hear_answer(big)
        assert len(editor.chunks()[-1]) == 3_000_000
        editor.end_input()
        assert editor.exit_code() == 0


def test_a_certificate_that_nobody_vouches_for(front: Front) -> None:
    with connect_editor(front.proxy.url, RELAYKIT_TOKEN=front.token) as editor:
        assert editor.exit_code() == 1
        notes = editor.notes()
    assert "could not be made: " in notes
    assert "certificate verify failed" in notes
    assert len(notes.splitlines()) == 1
