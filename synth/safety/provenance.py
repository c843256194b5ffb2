"""How what is generated is written: with its origin in the file and, where a certificate is given, signed."""

from collections.abc import Mapping
from typing import Literal

from tilth.claims import Json
from tilth.images import Image
from tilth.origins.packet import encode
from tilth.origins.signed import Sign, signer
from tilth.samples import UNKNOWN_LICENCE, join_licences


def licence_of_all(*licences: str) -> str:
    """Join the licences of what an image was made from into an SPDX expression: each of them holds.

    >>> licence_of_all("CC0-1.0", "CC-BY-4.0 AND CC0-1.0"), licence_of_all("openrail", "MIT OR 0BSD"), licence_of_all("MIT", "")
    ('CC0-1.0 AND CC-BY-4.0', 'openrail AND (MIT OR 0BSD)', 'MIT AND unknown')
    """
    return join_licences(*(licence.strip() or UNKNOWN_LICENCE for licence in licences))


class Writer:
    """Writes generated images.

    Args:
        kind: Of the files.
        certificate: That signs them, as `signer` takes it; empty for none.

    Raises:
        InputError: Nothing can be signed with the certificate.
        MissingExtra: It takes c2pa-python, which is not installed.
    """

    def __init__(self, kind: Literal["png", "webp", "jpeg"] = "png", certificate: str = "") -> None:
        self._kind = kind
        self._sign: Sign | None = signer(certificate) if certificate else None

    def write(self, image: Image, origin: Mapping[str, Json]) -> bytes:
        """Return the file of an image."""
        data = encode(image, origin, self._kind)
        return self._sign(data, origin) if self._sign else data
