"""Consent, without which no image of a real person is used as a reference.

Identity augmentation is off, and no model for it comes with Tilth: no step changes or copies a face. Whoever adds one calls
`require_consent` before a reference image is opened.
"""

from dataclasses import dataclass
from datetime import date

from tilth.errors import InputError
from tilth.synth.safety.refusals import examine, is_violent


@dataclass(frozen=True, kw_only=True)
class ConsentRecord:
    """A person's consent.

    Args:
        subject: Who, as a reference to the signed document; never a name in logs.
        adult: Whether the person is known to be an adult.
        scope: What for, in plain words; only these categories are allowed.
        expires: Last day on which it holds.
    """

    subject: str
    adult: bool
    scope: tuple[str, ...]
    expires: date


def require_consent(record: ConsentRecord | None, *, category: str, today: date, told: str = "") -> None:
    """Let identity augmentation of one category pass, or refuse it.

    Args:
        record: The person's consent.
        category: What the images are for.
        today: The date.
        told: Other words that go with the images, such as the prompt.

    Raises:
        InputError: There is no consent for this, today.
    """
    if record is None:
        raise InputError("identity augmentation is off: it needs a consent record (subject, adult, scope, expiry)")
    if not record.subject or record.adult is not True:
        raise InputError("identity augmentation needs a named subject who is known to be an adult")
    if today > record.expires:
        raise InputError(f"the consent of {record.subject} ended on {record.expires}; ask again before going on")
    if category not in record.scope:
        covered = ", ".join(record.scope) or "nothing"
        raise InputError(f"the consent of {record.subject} does not cover {category!r}; it covers {covered}")
    if examine({"category": category, "prompt": told}) is not None or is_violent(f"{category} ; {told}"):
        raise InputError("identity augmentation is never used for sexual or violent images")
