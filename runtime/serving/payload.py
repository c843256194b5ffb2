"""What a client may send to the moderation endpoint, and how a request becomes pixels or one clear line of refusal."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tilth.errors import InputError
from tilth.images import MAX_PIXELS, Image, decode

SHAPE = "expected {input: [{type: image_url, image_url: {url: data:image/…;base64,…}}]}"
MAX_IMAGES = 16
MAX_BODY_BYTES = 32 * 2**20


class ImageUrl(BaseModel):
    """Where the image is: only `data:` URLs are taken."""

    model_config = ConfigDict(extra="ignore")

    url: str


class ImageInput(BaseModel):
    """One image, as OpenAI's moderation endpoint takes it."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["image_url"]
    image_url: ImageUrl


class ModerationRequest(BaseModel):
    """The body of `POST /v1/moderations`: a list of images, or one alone."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[
        list[ImageInput],
        BeforeValidator(lambda v: [v] if isinstance(v, dict) else v),
        Field(min_length=1, max_length=MAX_IMAGES),
    ]
    model: str | None = None


def parse(body: bytes) -> ModerationRequest:
    """Read the body of a request.

    Raises:
        InputError: Says in one line what is wrong, and nothing of what was sent.
    """
    try:
        return ModerationRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"{place}: {first['msg']}; {SHAPE}") from error


def images_of(request: ModerationRequest, *, max_pixels: int = MAX_PIXELS) -> list[Image]:
    """Decode the images of a request.

    Raises:
        InputError: One cannot be had; the line says which and why.
    """
    images = []
    for i, one in enumerate(request.input):
        try:
            images.append(decode(_bytes(one.image_url.url), max_pixels=max_pixels))
        except InputError as error:
            raise InputError(f"input[{i}]: {error}") from error
    return images


def _bytes(url: str) -> bytes:
    if not url.startswith("data:"):
        scheme = url.partition(":")[0] if ":" in url[:10] else "no"
        raise InputError(f"{scheme} URLs are not fetched; send the image itself, as data:image/png;base64,…")
    head, comma, payload = url.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise InputError("expected data:image/<format>;base64,<data>")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the data is not base64") from error
