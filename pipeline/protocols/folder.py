"""A folder with images and what is true of each under one policy or several: what all protocols can be run on.

    policies/base.yaml     the policy; others beside it, `no-dice.yaml`, turn a clause around or add one
    images/…               whatever they are called
    answers.jsonl          {"file": "images/000001.jpg", "policy": "base", "categories": ["dice"]}

`categories` are those that apply under that policy. A line may also say `"pair": "0001"`, which two images share that differ in one
thing, or `"twin": "images/000002.jpg"`, the same image without the words that were put in to mislead. A bundle is put under such a policy
without training; the thresholds stay its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from tilth.claims import Json
from tilth.errors import InputError
from tilth.images import Image, decode
from tilth.policy import Category, Policy, load_policy
from tilth.runtime.bundles.bundle import in_use, load_bundle
from tilth.runtime.bundles.repolicy import repolicy
from tilth.runtime.bundles.settings import write_policy
from tilth.runtime.stages.cascade import Moderator
from tilth.yaml_text import plainly

THRESHOLDS = ("review_above", "block_above", "review_at")
ANSWERS, POLICIES, BASE = "answers.jsonl", "policies", "base"
SAID = 10  # mistakes that are told


class Answer(BaseModel):
    """A line: what is true of an image under a policy."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    file: str
    policy: str
    categories: Sequence[str]
    pair: str = ""
    twin: str = ""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What such a folder holds.

    Args:
        path: Where it lies.
        policies: By name.
        answers: By policy, then by file.
    """

    path: Path
    policies: dict[str, Policy]
    answers: dict[str, dict[str, Answer]]

    @property
    def flips(self) -> list[str]:
        """The policies other than the base."""
        return [name for name in self.policies if name != BASE]

    def read(self, file: str) -> tuple[Image | None, str]:
        """Decode an image, or say why it cannot be."""
        try:
            return decode((self.path / file).read_bytes()), ""
        except (InputError, OSError) as error:
            return None, str(error.strerror if isinstance(error, OSError) else error)

    def unsafe(self, policy: str, file: str) -> frozenset[str]:
        """Return the categories that apply to an image under a policy; signposts are none."""
        return frozenset(self.answers[policy][file].categories) - {*self.policies[policy].signposts}


def is_folder(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / ANSWERS).is_file()


def read_folder(path: Path) -> Folder:
    """Read and check all but the images.

    Raises:
        InputError: Lists what is wrong.
    """
    if not is_folder(path):
        raise InputError(f"{path}: no {ANSWERS} here; it says what is true of each image, see docs/two-stage.md")
    policies = {file.stem: load_policy(file) for file in sorted((path / POLICIES).glob("*.yaml"))}
    if BASE not in policies:
        raise InputError(f"{path / POLICIES}: needs {BASE}.yaml, the policy that the others differ from")
    answers: dict[str, dict[str, Answer]] = {name: {} for name in policies}
    wrong: list[str] = []
    for number, line in enumerate((path / ANSWERS).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            wrong.append(f"{number}: {place + ': ' if place else ''}{plainly(first)}")
            continue
        if faults := _faults(answer, policies, answers):
            wrong += [f"{number}: {fault}" for fault in faults]
            continue
        answers[answer.policy][answer.file] = answer
    if wrong:
        more = [f"and {len(wrong) - SAID} more"] if len(wrong) > SAID else []
        raise InputError("\n".join([*(f"{path / ANSWERS}:{one}" for one in wrong[:SAID]), *more]))
    if not answers[BASE]:
        raise InputError(f"{path / ANSWERS}: no line is of the policy {BASE}")
    return Folder(path=path, policies=policies, answers=answers)


def _faults(answer: Answer, policies: dict[str, Policy], answers: dict[str, dict[str, Answer]]) -> list[str]:
    """Say what is wrong with a line that is well formed."""
    if answer.policy not in policies:
        return [f"policy {answer.policy!r} has no file; there are {', '.join(policies)}"]
    known = policies[answer.policy].names
    found = [f"{name!r} is no category of {answer.policy}.yaml" for name in answer.categories if name not in known]
    if answer.file in answers[answer.policy]:
        found.append(f"{answer.file} was answered before under {answer.policy}")
    found += [
        f"{file} leads out of the folder"
        for file in (answer.file, answer.twin)
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts
    ]
    return found


def under(bundle: Path, folder: Folder, name: str, made: Path, *, threads: int = 0) -> Moderator:
    """Load a bundle under a policy of a folder, as `tilth bundle policy` would make it.

    Args:
        bundle: The bundle.
        folder: Has the policies.
        name: Of the one that is to hold.
        made: Folder for the bundle that is made; nothing is made where the bundle says the same already.
        threads: Of each model.

    Raises:
        InputError: No text can make this bundle follow that policy.
    """
    own, base, policy = load_policy(in_use(bundle) / "policy.yaml"), folder.policies[BASE], folder.policies[name]
    wanted = policy.with_categories(_tuned(one, own, base) for one in policy.categories)
    if _told(wanted) == _told(own):
        return load_bundle(bundle, threads=threads)
    made.mkdir(parents=True)
    write_policy(made, wanted)
    try:
        repolicy(bundle, made / "policy.yaml", made / "bundle", made="")
    except InputError as error:
        raise InputError(f"{bundle} cannot follow {folder.path / POLICIES / name}.yaml: {error}") from error
    return load_bundle(made / "bundle", threads=threads)


def _told(policy: Policy) -> list[Json]:
    """Return what of a policy decides anything."""
    return [
        (one.name, " ".join(one.definition.split()), one.evidence, one.severity, *_numbers(one))
        for one in policy.categories
    ]


def _numbers(category: Category) -> tuple[Json, ...]:
    return tuple(category.model_dump()[name] for name in THRESHOLDS)


def _tuned(category: Category, own: Policy, base: Policy) -> Category:
    """Give a category the thresholds of the bundle's, which belong to its models, unless the policy means to change them.

    It does where they differ from those of the folder's base, and where the category is new.
    """
    name = category.name
    if name not in own.names or name not in base.names or _numbers(category) != _numbers(base[name]):
        return category
    if category.is_signpost is not own[name].is_signpost:
        return category
    return category.model_copy(update={key: getattr(own[name], key) for key in THRESHOLDS})
