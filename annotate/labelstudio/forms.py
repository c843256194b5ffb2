"""What a project of Label Studio shows and asks, for each kind of sample: its interface, its tasks, and how its answers are read."""

from collections.abc import Callable, Mapping
from typing import Protocol

from tilth.annotate.labelstudio import texts
from tilth.annotate.labelstudio.answers import Answer, read_answers
from tilth.annotate.labelstudio.tasks import Row, check_prediction, check_task, make_config, make_prediction, make_task
from tilth.policy import Policy
from tilth.samples import IMAGE, TEXT, Sample


class Form(Protocol):
    """What one kind of sample is shown with and asked for.

    Attributes:
        config: The labelling interface.
        hidden: Columns of the data that the list of tasks does not show.
    """

    config: str
    hidden: tuple[str, ...]

    def task(self, sample: Sample, address: str, why: str) -> Row:
        """Write a sample as a task, its labels as a prediction of whoever made them."""
        ...

    def prediction(self, sample: Sample) -> Row:
        """Write the labels of a sample as a prediction; empty when there are none."""
        ...

    def wrong(self, task: object) -> list[str]:
        """Return all that is wrong with a task before it is sent."""
        ...

    def wrong_prediction(self, prediction: object, size_wh: tuple[object, object]) -> list[str]:
        """Return all that is wrong with a prediction for a sample of this size."""
        ...

    def answers(self, task: Row, size_wh: tuple[int, int], round_: int) -> list[Answer]:
        """Read the newest annotation of each person.

        Args:
            task: As the server lists it, with annotations and predictions.
            size_wh: Of the sample; people can edit what a task says of it.
            round_: Number of this review.
        """
        ...


class Pictures:
    """Images: boxes of the pictured categories, and what is shown without one."""

    hidden: tuple[str, ...] = ()

    def __init__(self, policy: Policy) -> None:
        self._policy, self._boxed = policy, tuple(category.name for category in policy.pictured)
        self.config = make_config(policy)

    def task(self, sample: Sample, address: str, why: str) -> Row:
        """Write an image as a task."""
        return make_task(sample, address, why)

    def prediction(self, sample: Sample) -> Row:
        """Write boxes, and what is shown without one."""
        return make_prediction(sample)

    def wrong(self, task: object) -> list[str]:
        """Check a task."""
        return check_task(task, self._boxed, self._policy.names)

    def wrong_prediction(self, prediction: object, size_wh: tuple[object, object]) -> list[str]:
        """Check boxes and choices."""
        return check_prediction(prediction, size_wh, self._boxed, self._policy.names)

    def answers(self, task: Row, size_wh: tuple[int, int], round_: int) -> list[Answer]:
        """Read boxes and choices."""
        width, height = size_wh
        whole = {**task, "data": {**task["data"], "width": width, "height": height}}
        return read_answers(whole, self._boxed, round_, self._policy.names, self._policy.tag)


class Words:
    """Texts: categories that words decide, of the whole and of parts."""

    hidden: tuple[str, ...] = (texts.TEXT,)

    def __init__(self, policy: Policy) -> None:
        self._names, self._tag = tuple(category.name for category in policy.written), policy.tag
        self.config = texts.make_interface([(c.name, c.definition) for c in policy.written])

    def task(self, sample: Sample, address: str, why: str) -> Row:
        """Write a text as a task; it has no address."""
        return texts.make_task(sample, why)

    def prediction(self, sample: Sample) -> Row:
        """Write categories and spans."""
        return texts.make_prediction(sample)

    def wrong(self, task: object) -> list[str]:
        """Check a task."""
        return texts.check_task(task, self._names)

    def wrong_prediction(self, prediction: object, size_wh: tuple[object, object]) -> list[str]:
        """Check choices and spans."""
        return texts.check_prediction(prediction, size_wh[0], self._names)

    def answers(self, task: Row, size_wh: tuple[int, int], round_: int) -> list[Answer]:
        """Read choices and spans."""
        return texts.read_answers(task, size_wh[0], self._names, round_, self._tag)


FORMS: Mapping[str, Callable[[Policy], Form]] = {IMAGE: Pictures, TEXT: Words}
