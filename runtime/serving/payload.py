"""What a client may send to the moderation endpoint, and how it becomes images and texts, or one clear line of refusal."""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from tilth.errors import InputError
from tilth.images import Image, decode, pixels_in

SHAPE = 'send {"input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]}'
MAX_ITEMS = 16
MAX_CHARACTERS = 4096  # of a text
MAX_BODY_BYTES = 32 * 2**20
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}

# What /openapi.json says of the body, which is read by hand so that whatever is wrong with it can be said in words.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": {"type": "string", "description": "Not looked at: one bundle is served."},
        "input": {
            "description": "Images and texts, at most 16; one alone needs no list, and a text may be a plain string.",
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["type", "image_url"],
                        "properties": {
                            "type": {"const": "image_url"},
                            "image_url": {
                                "type": "object",
                                "required": ["url"],
                                "properties": {"url": {"type": "string"}},
                            },
                        },
                    },
                    {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                    {"type": "string"},
                ]
            },
        },
    },
}


FORM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "input": {
            "description": "Image files, and texts.",
            "type": "array",
            "items": {"type": "string", "format": "binary"},
        }
    },
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": SCHEMA}, "multipart/form-data": {"schema": FORM_SCHEMA}},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"description": told, "content": {"application/json": {"schema": _ERROR}}}
    for status, told in {
        400: "The request cannot be judged; the message says why.",
        401: "No token that is known.",
        408: "The request did not come in time.",
        413: "The body is too large.",
        429: "The server is full; Retry-After says when to come back.",
        500: "Internal error.",
        503: "The bundle is still being loaded.",
        504: "No verdict in time.",
    }.items()
}


class WrongRequest(InputError):
    """A request that cannot be answered.

    Args:
        message: For a person; holds nothing of what was sent.
        param: Name of the part that is wrong, as in `input[1]`; empty for the whole.
    """

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(f"{param}: {message}" if param else message)
        self.param = param


@dataclass(frozen=True)
class Url:
    """An image as it was sent: a `data:` URL, or base64 alone."""

    url: str


@dataclass(frozen=True)
class Upload:
    """An image as a form brings it: the file."""

    data: bytes


@dataclass(frozen=True)
class Text:
    """A text to be judged."""

    text: str


Item: TypeAlias = Url | Upload | Text


def parse(body: bytes) -> list[Item]:
    """Read the body of a request: what is to be judged, in its order.

    Raises:
        WrongRequest: Says in one line what is wrong, and nothing of what was sent.
    """
    try:
        told = json.loads(body)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if body.strip() else "it is empty"
        raise WrongRequest(f"the body is not JSON ({where}); {SHAPE}") from error
    except (ValueError, RecursionError) as error:
        raise WrongRequest(f"the body is not JSON that can be read; {SHAPE}") from error
    if not isinstance(told, dict):
        raise WrongRequest(f"the body is {KINDS[type(told)]}, not an object; {SHAPE}")
    if "input" not in told:
        raise WrongRequest(f"it is missing; {SHAPE}", "input")
    given = told["input"]
    if not isinstance(given, list):
        return [_item(given, "input")]
    if not given:
        raise WrongRequest(f"it is an empty list; {SHAPE}", "input")
    few(len(given))
    return [_item(one, f"input[{i}]") for i, one in enumerate(given)]


def few(elements: int) -> None:
    """Check that a request does not ask for too much.

    Raises:
        WrongRequest: It does.
    """
    if elements > MAX_ITEMS:
        raise WrongRequest(
            f"it has {elements} elements, at most {MAX_ITEMS} are judged at once; send several requests", "input"
        )


def _item(given: Any, place: str) -> Item:
    """Read one element of the input, or the only one."""
    if isinstance(given, str):
        return text_of(given, place)
    if not isinstance(given, dict):
        raise WrongRequest(f"it is {KINDS[type(given)]}; {SHAPE}", place)
    kind = given.get("type")
    if kind == "text":
        return text_of(given.get("text"), f"{place}.text")
    if kind != "image_url":
        wrong = "its type is missing" if kind is None else "its type is none that is judged here"
        raise WrongRequest(f"{wrong}; expected image_url or text", place)
    image = given.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise WrongRequest(f"expected the image's data: URL, got {KINDS[type(url)]}; {SHAPE}", f"{place}.image_url.url")
    return Url(_whole(url))


def text_of(given: Any, place: str) -> Text:
    """Check a text.

    Raises:
        WrongRequest: It is none, or too long.
    """
    if not isinstance(given, str):
        raise WrongRequest(f"expected a text, got {KINDS[type(given)]}", place)
    text = _whole(given)
    if not text.strip():
        raise WrongRequest("it is empty, there is nothing to judge", place)
    if len(text) > MAX_CHARACTERS:
        raise WrongRequest(
            f"it has {len(text):,} characters, at most {MAX_CHARACTERS:,} are judged at once; send it in parts", place
        )
    return Text(text)


def _whole(text: str) -> str:
    """Return a text whose characters are all whole: half of a surrogate pair, which JSON can write, is none."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def pixels_of(files: Mapping[int, bytes], limit: int) -> int:
    """Return how many pixels the images of a request have together, by what their headers say; nothing is decoded.

    Args:
        files: The images, each under its place in the request.
        limit: Of their pixels together.

    Raises:
        WrongRequest: One is no image, or too large, or all together are.
    """
    together = 0
    for i, data in files.items():
        with told_of(i):
            together += pixels_in(data)
    if together > limit:
        raise WrongRequest(
            f"its images have {together:,} pixels together ({len(files)} of them), the limit is {limit:,}; send several requests",
            "input",
        )
    return together


def images_of(files: Mapping[int, bytes]) -> list[Image]:
    """Decode the images of a request.

    Raises:
        WrongRequest: One cannot be decoded; the line says which and why.
    """
    images = []
    for i, data in files.items():
        with told_of(i):
            images.append(decode(data))
    return images


@contextmanager
def told_of(place: int) -> Iterator[None]:
    """Say of what goes wrong which element of the request it is about."""
    try:
        yield
    except WrongRequest:
        raise
    except InputError as error:
        raise WrongRequest(str(error).splitlines()[0], f"input[{place}]") from error


def is_remote(url: str) -> bool:
    """Tell whether an image lies elsewhere.

    >>> is_remote("https://example.org/a.png"), is_remote("data:image/png;base64,AAAA"), is_remote("AAAA")
    (True, False, False)
    """
    return re.match(r"\s*https?:", url[:64], re.I) is not None


def bytes_of(url: str) -> bytes:
    """Return what a `data:` URL holds, whatever it says its kind is, or what bare base64 does."""
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*):", url[:64])
    if scheme is None:
        return _from_base64(url)
    if scheme[1].lower() != "data":
        raise InputError(f"{scheme[1].lower()} URLs are not fetched; send the image itself, as data:image/png;base64,…")
    head, comma, payload = url[scheme.end() :].partition(",")
    if not comma:
        raise InputError("the data: URL has no comma, after which the data begin; expected data:image/png;base64,…")
    if head.rpartition(";")[2].strip().lower() != "base64":
        return unquote_to_bytes(payload)
    return _from_base64(payload)


def _from_base64(text: str) -> bytes:
    """Decode base64 as clients send it: in lines, with or without padding, of either alphabet, escaped for a URL."""
    plain = "".join((unquote_to_bytes(text).decode("latin-1") if "%" in text else text).split()).rstrip("=")
    try:
        return base64.b64decode(plain.translate({45: "+", 95: "/"}) + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            "the data is not base64; expected data:image/png;base64,… with the bytes of the image"
        ) from error
