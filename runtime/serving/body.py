"""The body of a request: read up to a limit, then taken apart, be it JSON or a form with files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tilth.errors import InputError
from tilth.extras import optional
from tilth.runtime.serving.payload import Item, Upload, WrongRequest, few, parse, text_of

if TYPE_CHECKING:
    from fastapi import Request

FORM = "multipart/form-data"
SEND_FORM = "send it as curl -F input=@photo.jpg does"


class TooLarge(Exception):
    """The body is longer than allowed."""


class HungUp(Exception):
    """The client went away in the middle of its body, of which so many bytes had come."""


def length_of(request: "Request") -> int | None:
    """Return how long a body is said to be; None where it comes in chunks, and nobody knows."""
    if "transfer-encoding" in request.headers:
        return None
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdigit() else None


async def read_body(request: "Request", limit: int) -> bytes:
    """Read the body, up to a limit in bytes.

    Raises:
        TooLarge: It is longer.
        HungUp: The client went away.
        InputError: It is packed.
    """
    from starlette.requests import ClientDisconnect

    if (packed := request.headers.get("content-encoding", "identity")) != "identity":
        raise InputError(f"the body is packed ({packed[:20]!r}), which is not undone here; send plain JSON")
    if (length_of(request) or 0) > limit:
        raise TooLarge
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLarge
    except ClientDisconnect as error:
        raise HungUp(len(body)) from error
    return bytes(body)


def items_of(body: bytes, content_type: str) -> list[Item]:
    """Return what is to be judged, in its order.

    Args:
        body: Of the request.
        content_type: The header; a form is told by it, and anything else is taken as JSON.

    Raises:
        WrongRequest: Says in one line what is wrong, and nothing of what was sent.
    """
    return _from_form(body, content_type) if content_type.lower().startswith(FORM) else parse(body)


def _from_form(body: bytes, content_type: str) -> list[Item]:
    items: list[Item] = []
    for options, data in _parts(body, content_type):
        place, field = f"input[{len(items)}]", options.get(b"name", b"")
        if b"filename" in options or b"filename*" in options:
            items.append(Upload(data))
        elif field == b"input":
            items.append(text_of(data.decode(errors="replace"), place))
        elif field != b"model":
            raise WrongRequest(
                f"a field that is neither a file nor input; {SEND_FORM}, and a text as -F input='…'", place
            )
    if not items:
        raise WrongRequest(f"the form holds neither a file nor a text; {SEND_FORM}", "input")
    few(len(items))
    return items


def _parts(body: bytes, content_type: str) -> list[tuple[Mapping[bytes, bytes], bytes]]:
    """Take a form apart: of each part the options of its `Content-Disposition`, and its content."""
    with optional():
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

    parts: list[tuple[Mapping[bytes, bytes], bytes]] = []
    name, value, headers, content = bytearray(), bytearray(), dict[bytes, bytes](), bytearray()
    ended = False

    def end_header() -> None:
        headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end_part() -> None:
        parts.append((parse_options_header(headers.get(b"content-disposition", b""))[1], bytes(content)))
        headers.clear()
        content.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    told: dict[str, Any] = {
        "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": end_header,
        "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
        "on_part_end": end_part,
        "on_end": end,
    }
    try:
        parser = MultipartParser(parse_options_header(content_type)[1][b"boundary"], told)  # type: ignore[arg-type]
        parser.write(body)
    except (FormParserError, KeyError, ValueError) as error:
        raise WrongRequest(f"the body is no form that can be read; {SEND_FORM}") from error
    if not ended:
        raise WrongRequest(f"the body is a form that breaks off; {SEND_FORM}")
    return parts
