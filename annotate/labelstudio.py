"""Talk to a Label Studio server: one project a queue, each sample pushed once, answers pulled as they are."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilth.annotate.labelstudio_tasks import Row, check_task, make_config, make_task
from tilth.annotate.orientation import read_header
from tilth.errors import InputError, Unavailable
from tilth.extras import optional
from tilth.images import encode_png
from tilth.policy import Policy
from tilth.samples import Sample

BATCH = 500  # tasks in one request; the server takes 1,000
PAGE = 100
NO_RETRY: Any = {"max_retries": 0}  # the SDK repeats a POST that timed out, and the server does not tell repeats apart


class Studio:
    """A project on a Label Studio server.

    Args:
        url: Of the server.
        key: Access token; never logged.
        files: Folder that the server serves local files from (`LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`).
        title: Of the project; made when there is none of this title.
        policy: Whose categories it asks for.

    Raises:
        Unavailable: The server does not answer.
        InputError: It refuses the key, or has a project of this title for another policy.
    """

    def __init__(self, url: str, key: str, files: Path, title: str, policy: Policy) -> None:
        with optional():
            import httpx
            from label_studio_sdk import LabelStudio

        self.url, self.files, self.policy = url.rstrip("/"), files, policy
        self.folder = files / "tilth" / "".join(c if c.isalnum() else "-" for c in title)
        self._http = httpx.Client(timeout=120, follow_redirects=True)  # ours, as the SDK never closes its own
        self._client: Any = LabelStudio(base_url=self.url, api_key=key, httpx_client=self._http)
        self.categories = tuple(category.name for category in policy.pictured)
        try:
            with self._trouble():
                self.project = self._find(title) or self._create(title)
        except Exception:
            self._http.close()
            raise

    def __enter__(self) -> "Studio":
        """Use the connection in a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Turn what the client raises into errors that say what to do."""
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        try:
            yield
        except httpx.TransportError as error:
            raise Unavailable(
                f"Label Studio at {self.url} does not answer ({type(error).__name__}); start it, run again"
            ) from error
        except ApiError as error:
            if error.status_code in (401, 403):
                raise InputError(f"Label Studio at {self.url} refuses the key; set LABEL_STUDIO_API_KEY") from error
            raise Unavailable(f"Label Studio at {self.url} answers {error.status_code}; run again") from error

    def _get(self, path: str, **parameters: object) -> Any:
        """Return raw JSON: the SDK's typed listings reject what the server really sends."""
        from label_studio_sdk.core.api_error import ApiError

        answer = self._client._client_wrapper.httpx_client.request(path, method="GET", params=parameters)
        if answer.status_code >= 400:
            raise ApiError(status_code=answer.status_code)
        return answer.json()

    def _find(self, title: str) -> int:
        page = self._get("api/projects", title=title, page_size=PAGE)
        same = [project for project in page["results"] if project["title"] == title]
        if not same:
            return 0
        if _canonical(same[0]["label_config"]) != _canonical(make_config(self.policy)):
            raise InputError(f"Label Studio project {title!r} asks for other categories; rename or delete it")
        return int(same[0]["id"])

    def _create(self, title: str) -> int:
        made = self._client.projects.create(
            title=title,
            label_config=make_config(self.policy),
            show_skip_button=True,
            enable_empty_annotation=True,
            show_collab_predictions=True,
            request_options=NO_RETRY,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._client.import_storage.local.create(
            project=int(made.id or 0),
            path=str(self.folder.resolve()),
            title="tilth",
            use_blob_urls=True,
            request_options=NO_RETRY,
        )
        return int(made.id or 0)

    def tasks(self, *, whole: bool = False) -> Iterator[Row]:
        """Yield the project's tasks: their ids and data, or all with annotations and predictions."""
        wanted = {"fields": "all"} if whole else {"include": "id,data"}
        page = 1
        while True:
            with self._trouble():
                answer = self._get("api/tasks", project=self.project, page=page, page_size=PAGE, **wanted)
            yield from answer["tasks"]
            if page * PAGE >= int(answer["total"]):
                return
            page += 1

    def pushed(self) -> set[str]:
        """Return the ids of the samples that the project has."""
        return {str(task["data"].get("sample")) for task in self.tasks()}

    def push(self, samples: Iterable[Sample], why: Callable[[str], str] = lambda id_: "") -> int:
        """Send the samples that the project lacks, each with its labels as a prediction; return their number.

        Raises:
            InputError: A task is malformed; nothing of its batch was sent.
            Unavailable: The server failed; what it took is recognised the next time.
        """
        known = self.pushed()
        batch: list[Row] = []
        sent = 0
        for sample in samples:
            if sample.id in known:
                continue
            known.add(sample.id)
            batch.append(make_task(sample, self._show(sample), why(sample.id)))
            if len(batch) == BATCH:
                sent += self.send(batch)
                batch = []
        return sent + (self.send(batch) if batch else 0)

    def _show(self, sample: Sample) -> str:
        """Put the image where the server can see it; upright, as browsers differ in whether they turn it."""
        plain = read_header(sample.data)[1] == 1
        path = self.folder / f"{sample.id}.{'img' if plain else 'png'}"
        if plain:
            kinds = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp", b"GI": "gif"}
            kind = kinds.get(sample.data[:2])
            path = path.with_suffix(f".{kind or 'png'}")
            plain = kind is not None
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.data if plain else encode_png(sample.pixels()))
        return f"/data/local-files/?d={path.relative_to(self.files).as_posix()}"

    def send(self, tasks: Sequence[Row]) -> int:
        """Check tasks and send them in one request.

        Raises:
            InputError: Lists what is wrong; nothing was sent.
        """
        wrong = [f"tasks[{n}].{what}" for n, task in enumerate(tasks) for what in check_task(task, self.categories)]
        if wrong:
            raise InputError("not sent to Label Studio:\n" + "\n".join(wrong[:20]))
        with self._trouble():
            rows: Any = list(tasks)
            self._client.projects.import_tasks(self.project, request=rows, request_options=NO_RETRY)
        return len(tasks)


def _canonical(config: str) -> str:
    import xml.etree.ElementTree as ElementTree

    return json.dumps([(e.tag, sorted(e.attrib.items())) for e in ElementTree.fromstring(config).iter()])
