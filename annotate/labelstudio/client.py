"""Talk to a Label Studio server about one project: send tasks and predictions, list what changed, read what people said."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tilth.annotate.labelstudio.forms import FORMS
from tilth.annotate.labelstudio.tasks import Row, asked
from tilth.errors import InputError, Unavailable
from tilth.extras import optional
from tilth.policy import Policy
from tilth.samples import IMAGE

BATCH = 1000  # tasks in one request; the server takes them in one transaction, larger ones in no less time each
SLIM_PAGE = 1000
WHOLE_PAGE = 100  # tasks with annotations; their ids go into the address
TIMEOUT_S = 120
AGAIN = (408, 425, 429)  # besides 5xx, the answers that a later try can better
ANNOTATED = {
    "conjunction": "or",
    "items": [
        {"filter": f"filter:tasks:{name}", "operator": "greater", "type": "Number", "value": 0}
        for name in ("total_annotations", "cancelled_annotations")
    ],
}


def start_it(url: str) -> str:
    """Say how a server of this address is started.

    >>> start_it("http://127.0.0.1:8081"), start_it("https://labels.example.org")
    ('start it (tilth review up --port 8081)', 'start it')
    """
    here = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/?", url)
    return f"start it (tilth review up --port {here[1]})" if here else "start it"


class Studio:
    """A project on a Label Studio server.

    Args:
        url: Of the server.
        key: Access token; never logged.
        title: Of the project.
        policy: Whose categories it asks for.
        people: How many should see each image, where the project is made.
        make: Make the project when there is none of this title; else there must be one.
        media: What people see there, images or texts.

    Raises:
        Unavailable: The server does not answer.
        InputError: It refuses the key, has no such project, or has one that asks for something else.
    """

    def __init__(
        self, url: str, key: str, title: str, policy: Policy, *, people: int = 1, make: bool = True, media: str = IMAGE
    ) -> None:
        with optional():
            import httpx
            from label_studio_sdk import LabelStudio

        if not re.match(r"https?://[^/\s]", url):
            raise InputError(f"the address of Label Studio must be as in http://127.0.0.1:8081, got {url!r}")
        if not (key.isascii() and key.isprintable()):
            raise InputError(
                "the access token of Label Studio must be plain text in one line; set LABEL_STUDIO_API_KEY"
            )
        self.url, self.policy, self.title = url.rstrip("/"), policy, title
        self.form = FORMS[media](policy)
        self._http = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)
        # it knows both kinds of token; the requests are ours, as it repeats a POST that failed and rejects listings
        self._client: Any = LabelStudio(base_url=self.url, api_key=key, httpx_client=self._http)
        try:
            self.project = self._find() or (self._create(people) if make else 0)
            if not self.project:
                raise InputError(f"Label Studio at {self.url} has no project {title!r}; run: tilth review push")
        except BaseException:
            self._http.close()
            raise

    def __enter__(self) -> "Studio":
        """Use the connection in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    @property
    def page(self) -> str:
        """Where people find the project."""
        return f"{self.url}/projects/{self.project}"

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """Send one request, once, and return the JSON of the answer; errors say what to do.

        Raises:
            Unavailable: The server does not answer, or fails.
            InputError: It refuses the request.
        """
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        if body is not None:
            more["json"] = body
        try:
            headers = {k: v for k, v in self._client._client_wrapper.get_headers().items() if k == "Authorization"}
            answer = self._http.request(method, f"{self.url}/{path}", headers=headers, **more)
            code, text = answer.status_code, answer.text
            if code < 400:
                return answer.json() if text else None
        except ApiError as error:  # while a token is renewed
            code, text = error.status_code or 500, ""
        except httpx.TransportError as error:
            raise Unavailable(
                f"Label Studio at {self.url} does not answer ({type(error).__name__}); {start_it(self.url)}, run again"
            ) from error
        except ValueError as error:
            raise Unavailable(
                f"Label Studio at {self.url} answers {path} with no JSON; is it the right address?"
            ) from error
        if code in (401, 403):
            raise InputError(f"Label Studio at {self.url} refuses the key; set LABEL_STUDIO_API_KEY")
        if code >= 500 or code in AGAIN:
            raise Unavailable(f"Label Studio at {self.url} answers {code}; run again")
        # of what was sent the answer may repeat parts, and no log holds a text
        told = "" if self.form.hidden and "/import" in path else f": {' '.join(text.split())[:200]}"
        raise InputError(f"Label Studio at {self.url} answers {code} to {method} {path}{told}")

    def _find(self) -> int:
        page = self.call("GET", "api/projects", params={"title": self.title, "page_size": WHOLE_PAGE})
        same = [project for project in page["results"] if project["title"] == self.title]
        if len(same) > 1:
            raise InputError(f"Label Studio at {self.url} has {len(same)} projects {self.title!r}; rename all but one")
        if not same:
            return 0
        theirs, ours = asked(str(same[0]["label_config"])), asked(self.form.config)
        if theirs != ours:
            odd = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            raise InputError(
                f"Label Studio project {self.title!r} asks for other categories than policy {self.policy.policy} "
                f"(in {', '.join(odd)}); mend its labelling interface, or rename the project"
            )
        return int(same[0]["id"])

    def _create(self, people: int) -> int:
        made = self.call(
            "POST",
            "api/projects",
            {
                "title": self.title,
                "label_config": self.form.config,
                "maximum_annotations": people,
                "show_skip_button": True,
                "enable_empty_annotation": True,
                "show_collab_predictions": True,
            },
        )
        if self.form.hidden:  # in the list beside the task, until somebody asks for them there
            parts = {part: [f"tasks:data.{column}" for column in self.form.hidden] for part in ("explore", "labeling")}
            view = {"title": "Default", "type": "list", "target": "tasks", "hiddenColumns": parts}
            self.call("POST", "api/dm/views", {"project": int(made["id"]), "data": view})
        return int(made["id"])

    def serve_folder(self, path: str) -> None:
        """Let the project show the images of a folder of the server's machine."""
        known = self.call("GET", "api/storages/localfiles", params={"project": self.project})
        if not any(storage.get("path") == path for storage in known):
            self.call(
                "POST",
                "api/storages/localfiles",
                {"project": self.project, "path": path, "title": "tilth", "use_blob_urls": True},
            )

    # tasks

    def _list(
        self, page: int = 1, size: int = SLIM_PAGE, query: Mapping[str, object] | None = None, **wanted: str
    ) -> Row:
        more = {"query": json.dumps(query)} if query else {}
        asked_for = {"project": self.project, "page": page, "page_size": size, **wanted, **more}
        try:
            listed = self.call("GET", "api/tasks", params=asked_for)
        except InputError as error:
            if page == 1 or " answers 404 " not in str(error):
                raise
            raise Unavailable(f"tasks of {self.page} were deleted while they were listed; run again") from error
        if not isinstance(listed, dict) or not isinstance(listed.get("tasks"), list):
            raise Unavailable(f"Label Studio at {self.url} lists no tasks; is it the right address?")
        return dict(listed)

    def total(self) -> int:
        """Count the tasks."""
        return int(self._list(size=1, include="id")["total"])

    def slim(self, include: str = "id,data", query: Mapping[str, object] | None = None) -> Iterator[Row]:
        """Yield all tasks with a few fields each; not in one moment, so one may come twice or be missed while others change."""
        page = 1
        while True:
            listed = self._list(page, query=query, include=include)
            yield from listed["tasks"]
            if not listed["tasks"] or page * SLIM_PAGE >= int(listed["total"]):
                return
            page += 1

    def changed(self, since: str) -> tuple[list[tuple[int, str]], int]:
        """List the tasks that people have worked on and that changed since a time of the server's clock.

        Returns:
            `(task, changed at)`, newest first, and the number of all tasks that people have worked on.
        """
        query = {"filters": ANNOTATED, "ordering": ["-tasks:updated_at"]}
        found: dict[int, str] = {}
        # mostly little has changed, so the first page is small; larger ones begin at the top again
        for size, pages in ((WHOLE_PAGE, range(1, 2)), (SLIM_PAGE, itertools.count(1))):
            for page in pages:
                listed = self._list(page, size, query, include="id,updated_at")
                rows = [(int(row["id"]), str(row["updated_at"])) for row in listed["tasks"]]
                # a task that changes meanwhile moves to the top and pushes others down: some come twice, and the time of the
                # first page is what the next pull begins at, so none is missed
                for task, at in rows:
                    found.setdefault(task, at)
                if page * size >= int(listed["total"]) or not rows or rows[-1][1] < since:
                    return [(task, at) for task, at in found.items() if at >= since], int(listed["total"])
        raise AssertionError  # pages are counted without end

    def annotated(self) -> set[int]:
        """Return the tasks that people have worked on."""
        return {int(row["id"]) for row in self.slim("id", {"filters": ANNOTATED})}

    def whole(self, tasks: Sequence[int]) -> Iterator[Row]:
        """Yield these tasks with annotations and predictions; those that are gone are left out."""
        for start in range(0, len(tasks), WHOLE_PAGE):
            chosen = {"selectedItems": {"all": False, "included": list(tasks[start : start + WHOLE_PAGE])}}
            yield from self._list(size=WHOLE_PAGE, query=chosen, fields="all")["tasks"]

    def send(self, tasks: Sequence[Row]) -> list[int]:
        """Check tasks, send them in one request, and return their numbers.

        Raises:
            InputError: Lists what is wrong; nothing was sent.
        """
        wrong = [f"tasks[{n}].{what}" for n, one in enumerate(tasks) for what in self.form.wrong(one)]
        if wrong:
            raise InputError("not sent to Label Studio:\n" + "\n".join(wrong[:20]))
        answer = self.call(
            "POST", f"api/projects/{self.project}/import", list(tasks), params={"return_task_ids": "true"}
        )
        numbers = [int(number) for number in answer.get("task_ids") or []]
        if len(numbers) != len(tasks):
            raise Unavailable(f"Label Studio took {len(numbers)} of {len(tasks)} tasks; run again")
        return numbers

    def predict(self, predictions: Mapping[int, tuple[tuple[int, int], Row]]) -> None:
        """Put a new prediction in the place of the old ones of each task; an empty one leaves none.

        Args:
            predictions: Size of the image and prediction, by number of the task.

        Raises:
            InputError: Lists what is wrong; nothing was sent.
        """
        rows = [{"task": task, **prediction} for task, (_, prediction) in predictions.items() if prediction]
        wrong = [
            f"task {task}{what}"
            for task, (size, prediction) in predictions.items()
            for what in (self.form.wrong_prediction(prediction, size) if prediction else ())
        ]
        if wrong:
            raise InputError("not sent to Label Studio:\n" + "\n".join(wrong[:20]))
        # the old ones go first: a kill between the two requests leaves a task without a prediction, never with two
        self.call(
            "POST",
            "api/dm/actions",
            {"selectedItems": {"all": False, "included": list(predictions)}},
            params={"id": "delete_tasks_predictions", "project": self.project},
        )
        if rows:
            self.call("POST", f"api/projects/{self.project}/import/predictions", rows)

    def ask_another(self, task: int, people: int) -> None:
        """Offer a task to one more person than have seen it."""
        self.call("PATCH", f"api/tasks/{task}/", {"overlap": people, "is_labeled": False})

    def remove(self, task: int) -> None:
        """Delete a task."""
        self.call("DELETE", f"api/tasks/{task}/")
