"""Prompts: what was typed, as ACP's content blocks; images are read from their files."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from os.path import expanduser

import anyio

from relaykit_gateway.acp_client import Json
from relaykit_gateway.address import ClientError

MAX_IMAGE_BYTES = 10 * 1024 * 1024
"""The most that the images of one prompt may have: in base64, less than the 16 MiB that the relay takes."""

_SIGNATURES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
_MENTION = re.compile(r"(?<!\S)@(\S+\.(?:png|jpe?g|gif|webp))(?![^\s,;:.!?)])", re.IGNORECASE)
_PATH = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|(\S+))\s*""")


class BadImage(ClientError):
    """A file cannot be sent as an image."""


async def read_prompt(text: str) -> Sequence[Json]:
    """Return a text, and every image that it mentions as ``@path.png`` and that is a file here.

    A path that is no file here stays what it is: it may be one of the agent's.

    :raises BadImage: a file is no image that ACP's agents take, or they are too large.
    """
    found = [path for path in _MENTION.findall(text) if await _file(path).is_file()]
    return [_text(text), *await _read_images(found)]


async def read_image_prompt(arguments: str) -> Sequence[Json]:
    """Return the image and the text of ``PATH [text]``; a path with spaces stands in quotes.

    :raises BadImage: as above; or there is no such file.
    """
    found = _PATH.match(arguments)
    if found is None:
        raise BadImage("which image? /image PATH [text]")
    text = arguments[found.end() :]
    images = await _read_images([next(group for group in found.groups() if group is not None)])
    return [*([_text(text)] if text else []), *images]


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _file(path: str) -> anyio.Path:
    return anyio.Path(expanduser(path))  # noqa: PTH111 -- Path's own raises where there is no such home


async def _read_images(paths: Sequence[str]) -> Sequence[Json]:
    images: list[Json] = []
    room = MAX_IMAGE_BYTES
    for path in paths:
        data = await _read(path, room)
        room -= len(data)
        kind = next((kind for kind, signature in _SIGNATURES.items() if signature.match(data)), None)
        if kind is None:
            raise BadImage(f"{path!r} is no PNG, JPEG, GIF or WebP")
        images.append({"type": "image", "mimeType": kind, "data": b64encode(data).decode()})
    return images


async def _read(path: str, most: int) -> bytes:
    try:
        async with await _file(path).open("rb") as file:
            data = await file.read(most + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte is no OSError
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BadImage(f"{path!r} cannot be read: {why}") from error
    if len(data) > most:
        raise BadImage(
            f"the images of one prompt may have {MAX_IMAGE_BYTES // 1024 // 1024} MiB at most: {path!r}"
        )
    return data
