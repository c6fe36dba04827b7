from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from relaykit_gateway.acp_client import Question
from relaykit_gateway.chat.choices import Choices
from relaykit_gateway.chat.forms import BadValue, Field, fields_of
from relaykit_gateway.chat.permissions import choose, keys_of
from relaykit_gateway.chat.policy import Policy, decide
from relaykit_gateway.chat.prompts import MAX_IMAGE_BYTES, BadImage, read_image_prompt, read_prompt

pytestmark = pytest.mark.anyio

ONCE = {"optionId": "yes-1", "name": "Allow once", "kind": "allow_once"}
ALWAYS = {"optionId": "yes-2", "name": "Always", "kind": "allow_always"}
REJECT = {"optionId": "no", "name": "Reject", "kind": "reject_once"}


# ---------------------------------------------------------------- permissions


def test_keys_are_numbers_and_letters_where_it_is_clear_what_they_mean() -> None:
    assert keys_of([ALWAYS, ONCE, REJECT]) == {"1": ALWAYS, "2": ONCE, "3": REJECT, "y": ONCE, "n": REJECT}
    assert set(keys_of([ONCE, {**ONCE, "optionId": "yes-3"}, REJECT])) == {"1", "2", "3", "n"}
    assert set(keys_of([ALWAYS])) == {"1"}


def test_answers_are_chosen_by_key_id_or_name() -> None:
    typed = ["1", " 2 ", "YES-1", "reject", "allow once", "3", "", "y", "N"]
    expected = [ONCE, REJECT, ONCE, REJECT, ONCE, None, None, ONCE, REJECT]
    assert [choose([ONCE, REJECT], line) for line in typed] == expected


def asked(method: str, **params: Any) -> Question:
    return Question(session_id="s", seq=1, id="q", method=method, params=params)


@pytest.mark.parametrize(
    ("policy", "options", "expected"),
    [
        (Policy.YES, [ALWAYS, REJECT, ONCE], "yes-1"),
        (Policy.YES, [ALWAYS, REJECT], "yes-2"),
        (Policy.YES, [REJECT], None),
        (Policy.NO, [ONCE, REJECT], "no"),
        (Policy.NO, [ONCE], "cancelled"),
        (Policy.LEAVE, [ONCE, REJECT], None),
    ],
)
def test_policies_on_permissions(policy: Policy, options: list[Any], expected: str | None) -> None:
    decision = decide(policy, asked("session/request_permission", options=options))
    outcome = decision["outcome"] if decision is not None else {}
    assert outcome.get("optionId", outcome.get("outcome")) == expected


def test_policies_on_forms_and_on_what_is_not_known() -> None:
    form = asked("elicitation/create", message="Name?")
    assert [decide(policy, form) for policy in Policy] == [None, None, {"action": "decline"}]
    assert [decide(policy, asked("no/such")) for policy in Policy] == [None] * 3


# ---------------------------------------------------------------- forms


def field(**schema: Any) -> Field:
    return Field("f", schema, required=True)


TITLED = {"oneOf": [{"const": "r", "title": "Red"}, {"const": "g", "title": "Green"}]}


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        ({"type": "string"}, " a b ", "a b"),
        ({"type": "integer", "minimum": 1, "maximum": 5}, "5", 5),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "boolean"}, "Yes", True),
        ({"type": "boolean"}, "n", False),
        ({"type": "boolean", "default": False}, "", False),
        ({"type": "string", "enum": ["red", "green"]}, "2", "green"),
        ({"type": "string", "enum": ["red", "green"]}, "RED", "red"),
        ({"type": "string", **TITLED}, "green", "g"),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, "3, a", ["c", "a"]),
        ({"type": "array", "items": {"anyOf": TITLED["oneOf"]}}, "Red", ["r"]),
        ({"type": "string", "pattern": "^[a-z]+$"}, "abc", "abc"),
        ({"type": "string", "pattern": "(unclosed"}, "abc", "abc"),
    ],
)
def test_what_is_typed_becomes_a_value(schema: dict[str, Any], typed: str, value: Any) -> None:
    read = field(**schema).read(typed)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("schema", "typed", "problem"),
    [
        ({"type": "string"}, "  ", "must be given"),
        ({"type": "integer"}, "2.5", "no whole number"),
        ({"type": "integer", "minimum": 1}, "0", "at least 1"),
        ({"type": "number", "maximum": 1.5}, "2", "at most 1.5"),
        ({"type": "number"}, "nan", "no number"),
        ({"type": "number"}, "x", "no number"),
        ({"type": "boolean"}, "perhaps", "y or n"),
        ({"type": "string", "enum": ["red"]}, "blue", "none of the choices"),
        ({"type": "string", "minLength": 3}, "ab", "at least 3"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "ABC", "must match"),
        ({"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 1}, "a,b", "at most 1"),
        ({"type": "object"}, "x", "cannot be filled in"),
    ],
)
def test_what_is_no_value_is_refused(schema: dict[str, Any], typed: str, problem: str) -> None:
    with pytest.raises(BadValue, match=problem):
        field(**schema).read(typed)


def test_a_form_is_its_fields() -> None:
    properties = {
        "name": {"type": "string", "title": "Your name"},
        "n": {"type": "integer", "default": 3},
        "x": None,
    }
    found = fields_of({"requestedSchema": {"properties": properties, "required": ["name"]}})
    assert [(each.name, each.title, each.required, each.hint) for each in found] == [
        ("name", "Your name", True, ""),
        ("n", "n", False, "a whole number, default: 3"),
    ]
    assert Field("f", {"type": "string"}, required=False).read("") is None
    assert fields_of({}) == fields_of({"requestedSchema": {"properties": [], "required": 3}}) == []


# ---------------------------------------------------------------- modes and models


MODES = {
    "currentModeId": "ask",
    "availableModes": [{"id": "ask", "name": "Ask"}, {"id": "code", "name": "Code"}],
}
MODELS = {
    "currentModelId": "a",
    "availableModels": [{"modelId": "a", "name": "A"}, {"modelId": "b", "name": "B"}],
}


def config(current: str) -> list[dict[str, Any]]:
    values = [
        {"value": "small", "name": "Small"},
        {"group": "g", "options": [{"value": "big", "name": "Big"}]},
    ]
    boolean = {"id": "x", "category": "model", "type": "boolean", "currentValue": True}
    select = {"id": "m", "category": "model", "type": "select", "currentValue": current, "options": values}
    return [boolean, select]


def test_modes_and_models_as_they_stand_now() -> None:
    choices = Choices({"modes": MODES, "models": MODELS})
    mode, model = choices.get("mode"), choices.get("model")
    assert mode is not None
    assert model is not None
    assert (mode.current, mode.options) == ("ask", [("ask", "Ask"), ("code", "Code")])
    assert (mode.method, mode.params, mode.key) == ("session/set_mode", {}, "modeId")
    assert (model.current, model.method, model.key) == ("a", "session/set_model", "modelId")
    assert [mode.find(typed) for typed in ("CODE", "2", "Ask", "none")] == ["code", "code", "ask", None]
    choices.heard({"sessionUpdate": "current_mode_update", "currentModeId": "code"})
    choices.switched("model", "b", {})
    assert [choice.current for name in ("mode", "model") if (choice := choices.get(name))] == ["code", "b"]


def test_config_options_go_before_the_older_way() -> None:
    choices = Choices({"models": MODELS, "configOptions": config("small")})
    model = choices.get("model")
    assert model is not None
    assert (model.current, model.options) == ("small", [("small", "Small"), ("big", "Big")])
    assert (model.method, model.params, model.key) == (
        "session/set_config_option",
        {"configId": "m"},
        "value",
    )
    choices.switched("model", "big", {"configOptions": config("big")})
    assert (found := choices.get("model")) is not None
    assert found.current == "big"
    choices.heard({"sessionUpdate": "config_option_update", "configOptions": config("small")})
    assert (found := choices.get("model")) is not None
    assert found.current == "small"
    assert choices.get("mode") is None


# ---------------------------------------------------------------- images

IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n....",
    "image/jpeg": b"\xff\xd8\xff\xe0....",
    "image/gif": b"GIF89a....",
    "image/webp": b"RIFF\n\0\0\0WEBP....",
}


@pytest.mark.parametrize("kind", IMAGES)
async def test_an_image_is_known_by_what_it_is(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "an image"
    path.write_bytes(IMAGES[kind])
    text, image = await read_image_prompt(f'"{path}" what is  this?')
    assert text == {"type": "text", "text": "what is  this?"}
    assert (image["type"], image["mimeType"], b64decode(image["data"])) == ("image", kind, IMAGES[kind])


async def test_images_are_mentioned_in_a_text(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG"):
        (tmp_path / name).write_bytes(IMAGES["image/png"])
    text = f"compare @{tmp_path}/a.png and @{tmp_path}/b.PNG, not x@{tmp_path}/a.png or @agents.png"
    prompt = await read_prompt(text)
    assert prompt[0] == {"type": "text", "text": text}
    assert [block["type"] for block in prompt] == ["text", "image", "image"]
    assert await read_prompt("no @image.txt, no @") == [{"type": "text", "text": "no @image.txt, no @"}]


async def test_a_path_alone_is_an_image_alone(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(IMAGES["image/gif"])
    assert [block["type"] for block in await read_image_prompt(f"{tmp_path}/a.gif")] == ["image"]


async def test_what_is_no_image_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<svg>")
    (tmp_path / "large.png").write_bytes(IMAGES["image/png"] + bytes(MAX_IMAGE_BYTES))
    for arguments, problem in (
        (f"{tmp_path}/a.png", "is no PNG, JPEG, GIF or WebP"),
        (f"{tmp_path}/large.png", "10 MiB at most"),
        (f"{tmp_path}/none.png", "No such file"),
        (f"{tmp_path}", "Is a directory"),
        ("a\0b", "null byte"),
        ("", "PATH"),
    ):
        with pytest.raises(BadImage, match=problem):
            await read_image_prompt(arguments)
    with pytest.raises(BadImage, match="is no PNG"):
        await read_prompt(f"see @{tmp_path}/a.png")
