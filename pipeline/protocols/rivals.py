"""Rivals by spec: whoever is to be measured on the same images in the same run.

runs/other/bundle                                   another bundle, with both stages and with the first alone
Falconsai/nsfw_image_detection@<commit>             an image classifier of transformers; which labels are unsafe is said beside it
https://api.example.org/v1/moderations#its-model    a server that speaks OpenAI's moderation endpoint, with a model's name or without
"""

import base64
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from tilth import models
from tilth.errors import InputError, ModelError, TilthError
from tilth.extras import optional
from tilth.images import Image, encode_png
from tilth.pipeline.protocols.said import Cascade, Judge, Said
from tilth.runtime.bundles.bundle import IN_USE, MANIFEST, load_bundle

FLAGGED = 0.5  # of a classifier: chance of its unsafe labels together, from which on an image is flagged
ROUTE = "/v1/moderations"
TRIES = 4  # of a request that the server is too busy for
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How rivals are asked.

    Args:
        unsafe: Labels of classifiers that count as unsafe.
        token: For servers; none is sent when empty.
        timeout_s: For an answer of a server.
        threads: Of the models of bundles; 0 for as many as this process may use.
        device: That classifiers run on.
    """

    unsafe: Sequence[str] = ()
    token: str = field(default="", repr=False)
    timeout_s: float = 60.0
    threads: int = 0
    device: str = "cpu"


@contextmanager
def rivals(specs: Sequence[str], ways: Ways) -> Iterator[list[Judge]]:
    """Open rivals for as long as they are asked.

    Raises:
        InputError: One is named twice, or a label is none that a classifier has.
        ModelError: One cannot be loaded.
    """
    if len({*specs}) < len(specs):
        raise InputError("--rival: each once")
    found: list[Judge] = []
    classifiers: list[Classifier] = []
    servers: list[Endpoint] = []
    for spec in specs:
        path = Path(spec)
        if spec.startswith(("http://", "https://")):
            servers.append(Endpoint(spec, ways))
            found.append(servers[-1])
        elif (path / MANIFEST).is_file() or (path / IN_USE).is_symlink():
            found.append(Cascade(load_bundle(path, threads=ways.threads), name=spec))
        else:
            classifiers.append(Classifier(spec, ways))
            found.append(classifiers[-1])
    known = {label for each in classifiers for label in each.labels}
    if strangers := [label for label in ways.unsafe if label not in known]:
        owner = classifiers[0].names[0] if classifiers else "no rival that is a classifier"
        raise InputError(
            f"--unsafe {strangers[0]}: no such label; {owner} has {', '.join(sorted(known)[:30]) or 'none'}"
        )
    try:
        yield found
    finally:
        for server in servers:
            server.close()


class Classifier:
    """An image classifier of transformers: flagged when its unsafe labels together are more likely than not.

    Args:
        spec: As `tilth.models` names models.
        ways: Which labels are unsafe, and on which device it runs.
    """

    def __init__(self, spec: str, ways: Ways) -> None:
        folder = models.locate(spec)
        with optional():
            import torch
            import transformers
        try:
            self._model: Any = transformers.AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True
            )
            self._prepare: Any = transformers.AutoImageProcessor.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{spec}: not an image classifier of transformers: {str(error).splitlines()[0]}"
            ) from error
        self._torch, self._device = torch, models.device(ways.device)
        self._model.to(self._device).eval()
        self.labels: dict[str, int] = {label: int(i) for i, label in self._model.config.id2label.items()}
        self._unsafe = [self.labels[label] for label in ways.unsafe if label in self.labels]
        if not self._unsafe:
            some = ", ".join([*self.labels][:30])
            raise InputError(
                f"{spec}: which of its labels are unsafe? give --unsafe LABEL, once for each; it has {some}"
            )
        self.names: tuple[str, ...] = (spec,)

    def __call__(self, image: Image) -> dict[str, Said]:
        """Judge an image."""
        began = time.perf_counter()
        with self._torch.inference_mode():
            logits = self._model(**self._prepare(images=image, return_tensors="pt").to(self._device)).logits[0].float()
        config = self._model.config
        several = config.problem_type == "multi_label_classification" or config.num_labels == 1
        chances = logits.sigmoid() if several else logits.softmax(-1)
        own = chances[self._unsafe]
        chance = float(own.max() if several else own.sum())
        ms = 1000 * (time.perf_counter() - began)
        if chance != chance:
            return {self.names[0]: Said(flagged=None, why="it says what is no number", ms=ms)}
        flagged = chance >= FLAGGED
        return {self.names[0]: Said(flagged=flagged, action="block" if flagged else "allow", ms=ms)}


class Endpoint:
    """A server that speaks OpenAI's moderation endpoint.

    Args:
        url: Of the server or of its route, and after `#` the model to ask for.
        ways: Token and patience.
        sleep: Waits so many seconds.
    """

    def __init__(self, url: str, ways: Ways, sleep: Callable[[float], None] = time.sleep) -> None:
        import httpx

        address, self._wanted = urldefrag(url)
        address = address.rstrip("/")
        self._url = address if address.endswith(ROUTE) else address.removesuffix("/v1") + ROUTE
        headers = {"Authorization": f"Bearer {ways.token}"} if ways.token else {}
        self._http = httpx.Client(timeout=ways.timeout_s, headers=headers)
        self._sleep = sleep
        self.names: tuple[str, ...] = (url,)

    def close(self) -> None:
        """End its connections."""
        self._http.close()

    def __call__(self, image: Image) -> dict[str, Said]:
        """Ask the server about an image; what it cannot say is told as such."""
        data = base64.b64encode(encode_png(image)).decode()
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        body = {"input": [part], **({"model": self._wanted} if self._wanted else {})}
        try:
            said = self._asked(body)
        except TilthError as error:
            said = Said(flagged=None, why=str(error))
        return {self.names[0]: said}

    def _asked(self, body: dict[str, Any]) -> Said:
        """Send a request, again while the server is too busy.

        Raises:
            ModelError: There is no answer that can be understood.
        """
        import httpx

        for turn in range(TRIES):
            began = time.perf_counter()
            try:
                answer = self._http.post(self._url, json=body)
            except httpx.HTTPError as error:
                raise ModelError(f"no answer: {type(error).__name__}") from error
            ms = 1000 * (time.perf_counter() - began)
            if answer.status_code not in (429, 503) or turn == TRIES - 1:
                break
            self._sleep(_wait_s(answer.headers.get("retry-after", "")))
        if answer.status_code != 200:
            raise ModelError(f"status {answer.status_code}")
        try:
            [result] = answer.json()["results"]
            flagged, found = result["flagged"], result.get("categories") or {}
            named = frozenset(str(name) for name, yes in found.items() if yes is True)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError("an answer of another shape than OpenAI's") from error
        if not isinstance(flagged, bool):
            raise ModelError("an answer without flagged: true or false")
        told = result.get("tilth")
        action = str(told.get("action", "")) if isinstance(told, dict) else ""
        return Said(
            flagged=flagged, action=action or ("block" if flagged else "allow"), named=named, knows=frozenset(map(str, found)), ms=ms
        )  # fmt: skip


def _wait_s(told: str) -> float:
    """Return how long to wait, by what the server says.

    >>> _wait_s("7"), _wait_s("tomorrow"), _wait_s("3600")
    (7.0, 1.0, 30.0)
    """
    try:
        return min(LONGEST_WAIT_S, max(0.1, float(told)))
    except ValueError:
        return 1.0
