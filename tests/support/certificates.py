"""Certificates that nobody vouches for but who is given them."""

from __future__ import annotations

import subprocess
from pathlib import Path

_REQUEST = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate, and return it with its key.

    :param name: whose it is: ``DNS:relay.example.com``, or ``IP:127.0.0.1``.
    """
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *_REQUEST.split(),
            *("-subj", f"/CN={name.partition(':')[2]}", "-addext", f"subjectAltName={name}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key
