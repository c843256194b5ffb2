"""A review as the commands do it, on a real Label Studio, and its project as people see it."""

from typing import TYPE_CHECKING, Any

import label_studio
from noise import noise_image

from tilth.annotate.labelstudio.client import Studio
from tilth.annotate.review.ledger import Ledger
from tilth.annotate.review.people import NAMES
from tilth.annotate.review.pull import pull
from tilth.annotate.review.push import push
from tilth.annotate.review.review import Review
from tilth.claims import Claim
from tilth.engine.work import Work
from tilth.samples import NewSample

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODEL = "model:starter:grounding@abc"
Row = dict[str, Any]


def auto(category: str = "knife", box: tuple[float, float, float, float] = (4, 4, 20, 20), score: float = 0.6) -> Claim:
    return Claim(category=category, box_xyxy=box, score=score, source=MODEL)


def choice(value: str) -> Row:
    return {"id": "w", "type": "choices", "from_name": "whole", "to_name": "image", "value": {"choices": [value]}}


def fill(work: Work, n: int, first: int = 0) -> None:
    new = [NewSample(data=noise_image(first + k, 40), origin={"k": k}, claims=(auto(),)) for k in range(n)]
    work.add(f"images-{first}", new)


class Desk:
    """A review as the commands do it, and its project as people see it."""

    def __init__(self, work: Work, server: label_studio.Server, step: type[Review] = Review, **settings: Any) -> None:
        self.work, self.server, self.media = work, server, step.media[0]
        base = {"url": server.url, "files": server.files, "audit_share": 0.0}
        self.review = step(backend="labelstudio", **{**base, **settings})
        self.path = work.dataset.root / NAMES[self.media][1]

    @property
    def ledger(self) -> Ledger:
        return Ledger.load(self.path)

    def push(self) -> Any:
        return push(self.review, self.work, self.ledger)

    def pull(self) -> Any:
        return pull(self.review, self.work, self.ledger)

    def tasks(self) -> list[Row]:
        told = (self.server.url, self.server.token, self.ledger.title, self.work.policy)
        with Studio(*told, make=False, media=self.media) as studio:
            return sorted(studio.whole([int(row["id"]) for row in studio.slim("id")]), key=lambda row: int(row["id"]))

    def answer(self, task: Row, result: list[Row] | None = None, **fields: Any) -> Row:
        """Do what the browser does when a person submits; what was shown is accepted unless told otherwise."""
        (shown,) = task["predictions"]
        body = {
            "result": shown["result"] if result is None else result,
            "lead_time": 9.5,
            "parent_prediction": shown["id"],
        }
        return dict(self.server.call("POST", f"/api/tasks/{task['id']}/annotations/", {**body, **fields}))

    def sample(self, task: Row) -> Any:
        return self.work.dataset.read([task["data"]["sample"]], images=False)[0]


def other_person(server: label_studio.Server) -> int:
    """A second person of the same organisation."""
    users = server.call("GET", "/api/users/")
    for user in users:
        if user["email"] == "second@localhost":
            return int(user["id"])
    made = server.call(
        "POST", "/api/users/", {"email": "second@localhost", "username": "second", "password": "only-a-test-1"}
    )
    return int(made["id"])


def log_in(page: "Page", server: label_studio.Server) -> None:
    page.goto(f"{server.url}/user/login/")
    page.locator("[name=email]").fill(server.login["user"])
    page.locator("[name=password]").fill(server.login["password"])
    page.locator("[name=password]").press("Enter")
    page.wait_for_url(lambda url: "login" not in url)
