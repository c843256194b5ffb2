"""A bundle under the policy of a test folder: its words, with the thresholds at which the bundle's models work."""

from pathlib import Path

from tilth.claims import Json
from tilth.errors import InputError
from tilth.pipeline.protocols.folder import BASE, POLICIES, Folder
from tilth.policy import Category, Policy, load_policy
from tilth.runtime.bundles.bundle import in_use, load_bundle
from tilth.runtime.bundles.repolicy import repolicy
from tilth.runtime.bundles.settings import write_policy
from tilth.runtime.stages.cascade import Moderator

THRESHOLDS = ("review_above", "block_above", "review_at")


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
    wanted = policy.model_copy(update={"categories": tuple(_tuned(one, own, base) for one in policy.categories)})
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
