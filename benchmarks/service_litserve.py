"""The same bundle behind LitServe, for `benchmarks/service.py`: run by the Python of an environment that has it.

pip install litserve   # in an environment of its own: it brings other loops and parsers for the same web server
python benchmarks/service_litserve.py BUNDLE PORT BATCH
"""

import sys
from pathlib import Path
from typing import Any

import litserve

from tilth.images import Image, decode
from tilth.runtime.bundles.bundle import load_bundle
from tilth.runtime.serving.app import result
from tilth.runtime.serving.payload import bytes_of
from tilth.runtime.stages.cascade import Verdict

BATCH = int(sys.argv[3])


class Moderation(litserve.LitAPI):  # type: ignore[misc]
    """One image a request, in the shape of ours."""

    def setup(self, device: str) -> None:
        self.moderator = load_bundle(Path(sys.argv[1]), threads=1)

    def decode_request(self, request: dict[str, Any]) -> Image:
        [one] = request["input"]
        return decode(bytes_of(one["image_url"]["url"]))

    def batch(self, inputs: list[Image]) -> list[Image]:
        return inputs  # of any size, so they cannot be one array

    def unbatch(self, output: list[Verdict]) -> list[Verdict]:
        return output

    def predict(self, given: Any) -> Any:
        return self.moderator.moderate(given) if BATCH > 1 else self.moderator.moderate([given])[0]

    def encode_response(self, verdict: Verdict) -> dict[str, Any]:
        return {"id": "", "model": self.moderator.name, "results": [result(verdict)]}


if __name__ == "__main__":
    batches = {"max_batch_size": BATCH, "batch_timeout": 0.005} if BATCH > 1 else {}
    api = Moderation(api_path="/v1/moderations", **batches)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False
    )
