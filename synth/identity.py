"""Consent, without which no image of a real person is used as a reference.

Tilth ships no face-swapping model. Whoever adds one calls `require_consent` before a reference image is opened; a test holds
that every step of `synth` which takes references of people does.
"""

from dataclasses import dataclass
from datetime import date

from tilth.errors import InputError
from tilth.synth.safety import examine, is_violent


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


def require_consent(record: ConsentRecord | None, *, category: str, today: date) -> None:
    """Let identity augmentation of one category pass, or refuse it.

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
        raise InputError(f"the consent of {record.subject} does not cover {category!r}; it covers {', '.join(record.scope)}")
    if examine({"category": category}) is not None or is_violent(category):
        raise InputError(f"identity augmentation is never used for {category!r}")
