"""Consent, without which no image of a real person is used: a record says who, that they are an adult, what for and until when.

A record is a YAML or JSON file. It names images by their digests: `references` show the face that is given, `targets` are images in which
the subject's face may be replaced. Whoever is meant stays in that file: what is made names the record, its digest and a pseudonym.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StrictBool, ValidationError, model_validator

from tilth.claims import Json
from tilth.errors import InputError
from tilth.geometry import Box
from tilth.policy import Category
from tilth.synth.safety.refusals import (
    examine,
    examine_category,
    is_suggestive,
    is_violent,
    names_minor,
    said_of_category,
)
from tilth.yaml_text import describe, load_yaml

VIOLENT = "violence or weapons"
YOUNG = "minors"
SUGGESTIVE = "undress"
NAME = re.compile(r"[\w.-]{1,64}")
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scope(_Part):
    """What a consent is for: purposes in the words of the form, and the categories of which images may be made."""

    purposes: tuple[str, ...]
    categories: tuple[str, ...] = ()


class Signed(_Part):
    """When the form was signed, and the SHA-256 of the document, wherever that is kept."""

    day: date
    document: Digest


class Reference(_Part):
    """An image of the subject alone, beside the record, and the SHA-256 of the file."""

    file: Path
    sha256: Digest


class Target(_Part):
    """An image in which the subject's face may be replaced: SHA-256 of its file, or its id in the dataset; and where the face is."""

    sha256: Digest
    face_xyxy: Box | None = None


class Consent(_Part):
    """A person's consent.

    Args:
        record: Name of the record; what is made names it, so it is no person's name.
        subject: Who, as a reference to the signed document; it is never written anywhere.
        guardian: Who signed for an adult who cannot, likewise.
        basis: Why it is allowed: the `consent` of a person, or the `rights` to a fictional character.
        adult: Whether the person is known to be an adult.
        scope: What for.
        expires: Last day on which it holds.
        withdrawn: Day on which the person took it back.
        signed: The signature; a record without one is refused.
        licence: Under which the references may be used.
        references: Images of the face that is given to others.
        targets: Images of the subject whose face may be replaced.
    """

    record: str
    subject: str = ""
    guardian: str = ""
    basis: Literal["consent", "rights"] = "consent"
    adult: StrictBool = False
    scope: Scope
    expires: date
    withdrawn: date | None = None
    signed: Signed | None = None
    licence: str = ""
    references: tuple[Reference, ...] = ()
    targets: tuple[Target, ...] = ()
    _file: Path = PrivateAttr(default=Path())
    _digest: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _check(self) -> "Consent":
        if not NAME.fullmatch(self.record):
            raise ValueError(f"record must be up to 64 letters, digits, '.', '-' and '_', got {self.record!r}")
        if self.references and not self.licence.strip():
            raise ValueError("references need a licence, under which they may be used")
        if not self.references and not self.targets:
            raise ValueError("needs references, whose face is given, or targets, whose face is replaced")
        return self

    @property
    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of the record's file."""
        return self._digest

    @property
    def pseudonym(self) -> str:
        """What stands for the subject: the digest of the signed document is in it, so that guessing names is of no use."""
        document = self.signed.document if self.signed else ""
        return hashlib.sha256(f"{document} {self.subject.strip()}".encode()).hexdigest()[:16]

    def ended(self, today: date) -> str:
        """Say since when it does not hold any more; empty while it does."""
        if self.withdrawn and self.withdrawn <= today:
            return f"was withdrawn on {self.withdrawn}"
        return f"ended on {self.expires}" if today > self.expires else ""

    def require(self, *, purpose: str, today: date) -> None:
        """Let images be made for a purpose today, or refuse it.

        Raises:
            InputError: The record is unsigned, of no known adult, over, or for something else.
        """
        where = f"{self._file}: "
        if self.signed is None or self.signed.day > today:
            when = f"until {self.signed.day}" if self.signed else "at all"
            raise InputError(
                f"{where}the consent is not signed {when}; name the day and the SHA-256 of the signed form"
            )
        if not self.subject.strip() or not self.adult:
            raise InputError(f"{where}a consent needs a named subject who is known to be an adult")
        if ended := self.ended(today):
            raise InputError(f"{where}the consent {self.record} {ended}; ask again before going on")
        if purpose not in self.scope.purposes:
            allowed = ", ".join(self.scope.purposes) or "nothing"
            raise InputError(f"{where}the consent {self.record} is not for {purpose!r}; it is for {allowed}")

    def lacks(self, categories: Iterable[str]) -> list[str]:
        """Return those of the categories that it does not cover."""
        return sorted(set(categories) - set(self.scope.categories))

    def target(self, *digests: str) -> Target | None:
        """Return what it says of the image with one of these digests; None when it does not cover it."""
        return next((each for each in self.targets if each.sha256 in digests), None)

    def references_read(self) -> list[bytes]:
        """Read the reference images.

        Raises:
            InputError: One is absent, or is not the one that the subject agreed to.
        """
        found = []
        for each in self.references:
            path = self._file.parent / each.file
            try:
                data = path.read_bytes()
            except OSError as error:
                raise InputError(f"{self._file}: {path}: {error.strerror or error}") from error
            if (digest := hashlib.sha256(data).hexdigest()) != each.sha256:
                raise InputError(
                    f"{self._file}: {path} is not the image of the consent: {digest[:12]}…, not {each.sha256[:12]}…"
                )
            found.append(data)
        return found

    def told(self, role: str) -> dict[str, Json]:
        """Return what an image says of a consent that it was made with; `role` is `source` or `target`."""
        return {"role": role, "record": self.record, "digest": self.digest, "subject": self.pseudonym}


def load_consents(paths: Sequence[Path]) -> list[Consent]:
    """Read records.

    Raises:
        InputError: There is none, or some hold mistakes, of which all are listed.
    """
    if not paths:
        raise InputError(
            "identity augmentation is off: it needs consent records (subject, adult, scope, expiry, signature)"
        )
    found: list[Consent] = []
    wrong: list[str] = []
    for path in paths:
        document, lines = load_yaml(path)
        try:
            record = Consent.model_validate(document)
        except ValidationError as error:
            wrong += describe(error, path, lines)
            continue
        record._file, record._digest = path, hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        if record.record in [each.record for each in found]:
            wrong.append(f"{path}: there is another record {record.record!r}")
        found.append(record)
    if wrong:
        raise InputError("\n".join(wrong))
    return found


def records_in(origin: Mapping[str, Json]) -> dict[str, str]:
    """Return the records that an image was made with, by their role: whose face was given, and whose was replaced."""
    told = origin.get("consent")
    rows = told if isinstance(told, Sequence) and not isinstance(told, str) else ()
    return {str(row.get("role")): str(row.get("record")) for row in rows if isinstance(row, Mapping)}


def against_faces(told: Mapping[str, str]) -> str:
    """Say why no real person's face belongs into an image of which this is said; empty when nothing speaks against it."""
    if found := examine(told):
        return found.reason
    text = " ; ".join(told.values())
    reasons = ((is_violent, VIOLENT), (names_minor, YOUNG), (is_suggestive, SUGGESTIVE))
    return next((reason for speaks, reason in reasons if speaks(text)), "")


def against_category(category: Category) -> str:
    """Say why no real person's face is put into images of a category; empty when nothing speaks against it."""
    if found := examine_category(category):
        return found.reason
    return against_faces(said_of_category(category)[0])
