"""A language model elsewhere, behind an OpenAI-compatible server that tells log-probabilities: vLLM, llama.cpp's server and others.

It is asked for one token with the most likely others, and a letter has the probability of all tokens that spell it. A letter that is not
among those that are told is at most as likely as the last of them, and as what is left of one; it is taken for that, so that no harm is
made less likely than it is.

The server cuts words into tokens itself, and would take `<|im_end|>` in an image for the end of a turn: angle brackets become others.
"""

import json
import math
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tilth.claims import Json
from tilth.errors import InputError
from tilth.extras import optional
from tilth.runtime.judges.breaker import Breaker
from tilth.runtime.stages.stage1 import Screen
from tilth.runtime.stages.stage2 import MAX_BATCH, Chances, Unjudged
from tilth.runtime.stages.template import LETTERS, case

WORKERS = 4  # batches on their way at once
TOLD = 20  # most likely tokens; servers commonly tell no more
MOST_BYTES = 2**20  # of an answer
MARKS = "▁Ġ "  # by which tokenizers write the space before a word
BRACKETS = str.maketrans("<>", "‹›")
PATHS = {"chat": "chat/completions", "completions": "completions"}


class ServerSettings(BaseModel):
    """How a server is asked; `server` in `verdict.json`.

    Args:
        url: What its API begins with, such as `http://llm:8000/v1`.
        model: As the server calls it.
        api: `chat`, where the server writes the turns, or `completions`, where the prompt is sent as it is.
        token_env: Environment variable that holds the server's token; empty where it wants none.
        timeout_s: Seconds until a case counts as not judged.
        extra: What the server is also told with each case, such as `{"chat_template_kwargs": {"enable_thinking": false}}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str = Field(min_length=1)
    api: Literal["chat", "completions"] = "chat"
    token_env: str = Field(default="", pattern="^[A-Za-z_][A-Za-z0-9_]*$|^$")
    timeout_s: float = Field(default=5.0, gt=0, le=600, allow_inf_nan=False)
    extra: dict[str, Any] = {}

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", url):
            raise ValueError(
                "expected an address such as http://llm:8000/v1, without user, password or token; a token comes by token_env"
            )
        return url.rstrip("/")

    def token(self) -> str:
        """Return the token; empty where the server wants none.

        Raises:
            InputError: The environment variable is not set.
        """
        token = os.environ.get(self.token_env, "") if self.token_env else ""
        if self.token_env and not token:
            raise InputError(
                f"the language model's server at {self.url} wants a token; set the environment variable {self.token_env}"
            )
        return token


class Server:
    """A model that is asked over HTTP; one that does not answer in time, or at all, has judged nothing, and says so.

    Args:
        told: Where it is and what it is told.
        rules: What every prompt begins with.
        labels: How many verdicts there are, by letter.
        max_tokens: Longest prompt, guessed from its bytes: the server's tokenizer is not here.
        token: Of the server.

    Attributes:
        breaker: Keeps requests from waiting for a server that is dead.
    """

    back_end, workers = "server", WORKERS

    def __init__(self, told: ServerSettings, rules: str, labels: int, *, max_tokens: int, token: str = "") -> None:
        with optional():
            import httpx
        self._told, self._rules, self._labels, self._max_tokens = told, rules, labels, max_tokens
        headers = {"authorization": f"Bearer {token}"} if token else {}
        at_once = WORKERS * MAX_BATCH
        self._client = httpx.Client(
            base_url=told.url, headers=headers, timeout=told.timeout_s, trust_env=False,  # no variable sends words elsewhere
            limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
        )  # fmt: skip
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="ask")
        self.breaker = Breaker(f"the language model at {told.url}", self.answers)
        # they end with the moderator that this belongs to
        weakref.finalize(self, self._client.close)
        weakref.finalize(self, partial(self._pool.shutdown, wait=False))

    def room(self, case: str) -> int:
        """Return about how many tokens are left beside a prompt about this case: a token has two bytes at least in most writing."""
        return self._max_tokens - (len((self._rules + case).encode()) + 1) // 2

    def __call__(self, cases: Sequence[str]) -> list[Chances | Unjudged]:
        """Ask about all cases at once, and wait for no answer longer than for one."""
        if self.breaker.is_open:
            return [Unjudged("resting")] * len(cases)
        asked: list[Future[Chances | Unjudged]] = [self._pool.submit(self._ask, case) for case in cases]
        wait(asked, timeout=self._told.timeout_s)
        answers: list[Chances | Unjudged] = []
        for one in asked:
            answer = one.result() if one.done() else Unjudged("timeout")
            one.cancel()
            answers.append(answer)
            failed = answer.why if isinstance(answer, Unjudged) else ""
            if failed != "no_label":  # which is of the case, and says nothing of the server
                self.breaker.went(well=not failed, why=failed)
        return answers

    def answers(self) -> bool:
        """Ask about a case without words; tell whether there is an answer, whatever it is."""
        answer = self._ask(case(Screen(scores={}), ""))
        return not isinstance(answer, Unjudged) or answer.why == "no_label"

    def _ask(self, case: str) -> Chances | Unjudged:
        import httpx

        prompt = self._rules + case.translate(BRACKETS)
        common: dict[str, Json] = {"model": self._told.model, "max_tokens": 1, "temperature": 0, **self._told.extra}
        if self._told.api == "chat":
            turns: Json = [{"role": "user", "content": prompt}]
            body = {"messages": turns, "logprobs": True, "top_logprobs": TOLD, **common}
        else:
            body = {"prompt": prompt, "logprobs": TOLD, **common}
        try:
            status, answer = self._sent(body)
        except httpx.TimeoutException:
            return Unjudged("timeout")
        except (httpx.HTTPError, OSError):
            return Unjudged("unreachable")
        except (ValueError, RecursionError):  # no JSON, or too much of it
            return Unjudged("no_label")
        if status != 200:
            return Unjudged("no_label" if status in (400, 413, 422) else "refused")
        return read_letters(told_of(answer), self._labels)

    def _sent(self, body: Mapping[str, Json]) -> tuple[int, Any]:
        """Send a question; once more where a connection that was kept had been closed meanwhile."""
        import httpx

        for more in (True, False):
            try:
                with self._client.stream("POST", PATHS[self._told.api], json=body) as response:
                    data = bytearray()
                    for chunk in response.iter_bytes():
                        data += chunk
                        if len(data) > MOST_BYTES:
                            raise ValueError("an answer that is too long")
                    return response.status_code, json.loads(data) if response.is_success else None
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if not more:
                    raise
        raise AssertionError  # the second time it returns or raises


def told_of(answer: Any) -> list[tuple[str, float]]:
    """Return the most likely tokens with their log-probabilities, in either of the two shapes; nothing where there are none.

    >>> told_of({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": " A", "logprob": -0.1}]}]}}]})
    [(' A', -0.1)]
    >>> told_of({"choices": [{"logprobs": {"top_logprobs": [{" A": -0.1, "B": -3}]}}]})
    [(' A', -0.1), ('B', -3.0)]
    >>> told_of({"choices": []})
    []
    """
    try:
        logprobs = answer["choices"][0]["logprobs"]
        if logprobs.get("content"):
            pairs = [(one["token"], one["logprob"]) for one in logprobs["content"][0]["top_logprobs"]]
        else:
            pairs = [*logprobs["top_logprobs"][0].items()]
        found = sorted(((str(token), float(value)) for token, value in pairs), key=lambda pair: -pair[1])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return []
    return found if all(value <= 1e-3 and not math.isnan(value) for _, value in found) else []


def read_letters(told: Sequence[tuple[str, float]], labels: int) -> Chances | Unjudged:
    """Return the probability of each label `(labels,)`, of those tokens that spell a letter.

    >>> read_letters([("A", -0.5), (" B", -1.6), ("B", -1.7), ("the", -9.0)], 3).round(3).tolist()
    [0.612, 0.388, 0.0]
    >>> read_letters([("I", -0.1), ("The", -4.0)], 3)
    Unjudged(why='no_label')
    """
    found: dict[str, float] = {}
    for token, value in told:
        letter = token.strip(MARKS)
        if len(letter) == 1 and letter in LETTERS[:labels]:
            found[letter] = float(np.logaddexp(found.get(letter, -math.inf), value))
    if max(found.values(), default=-math.inf) == -math.inf:
        return Unjudged("no_label")
    known = sum(map(math.exp, found.values()))
    left = min(math.exp(told[-1][1]), max(0.0, 1 - sum(math.exp(value) for _, value in told)))
    chances = [math.exp(found[letter]) if letter in found else left for letter in LETTERS[:labels]]
    return np.minimum(1, np.array(chances) / known)
