"""Errors over HTTP, as RFC 9457 has them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse


class Problem(JSONResponse):
    """A response that says what is wrong: ``application/problem+json``.

    :param by: who is told so, where that is known; it is not in the response.
    """

    media_type = "application/problem+json"

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, by: str = ""
    ) -> None:
        self.detail = detail
        self.by = by
        title = HTTPStatus(status).phrase
        content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        super().__init__(content, status_code=status, headers=headers)
