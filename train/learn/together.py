"""Several processes learn one model together: on one machine, or as workers of a Ray cluster; one for each GPU, or for some cores each.

Each takes its part of every batch; accelerate averages the gradients, so that all stay the same. The first one judges, keeps the
checkpoints and leaves what was learned in a file. Batches and their random views are drawn as one process draws them, so what comes out
is what one process would have learned, up to rounding and to what a model itself draws at random. When a worker of a cluster dies, Ray
Train starts all anew, elsewhere if need be, and they go on from the last checkpoint; all nodes must see the folders.
"""

import json
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.data.files import write_beside
from tilth.engine.fit import Alone
from tilth.errors import InputError, TilthError, Unavailable
from tilth.events import Advance

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

WAIT_S = 0.2
REPORT_S = 1.0  # between two reports of a worker
REPORT, FAILED = "report.json", "failed.txt"
DEATHS = 3  # of workers, after which the cluster is given up


@dataclass(frozen=True, kw_only=True)
class Place(Alone):
    """Which of the processes that learn together this one is.

    Args:
        rank: Counted from 0.
        world: How many there are.
        accelerator: Of accelerate.
    """

    rank: int
    world: int
    accelerator: "Accelerator"

    def part(self, n: int) -> slice:
        """Return which of n images of a batch this process takes."""
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def share(self, weights: "Sequence[torch.Tensor]") -> None:
        """Average the gradients, once a step and all at once: some models leave some weights without one, others compute some apart."""
        import torch

        grads = []
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            grads.append(weight.grad)
        mean = self.accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="mean")
        for grad, own in zip(grads, mean.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(own.view_as(grad))

    def told(self, value: float) -> float:
        """Return the value of the first process."""
        from accelerate.utils import broadcast_object_list

        return float(broadcast_object_list([value])[0])

    def mean(self, value: "torch.Tensor") -> float:
        """Return the mean of all processes."""
        return float(self.accelerator.reduce(value.detach(), reduction="mean"))


def check_parts(processes: int, batch: int) -> None:
    """Refuse a batch that does not part evenly: its parts would not count the same.

    Raises:
        InputError: It does not.
    """
    if batch % processes:
        raise InputError(f"batch_size {batch} does not part evenly among {processes} processes; choose a multiple")


def together(processes: int, batch: int, learn: Callable[..., None], given: Sequence[Any], advance: Advance) -> None:
    """Call `learn(place, *given, advance)` in each of several processes.

    Args:
        processes: How many.
        batch: Images a step, which must part evenly.
        learn: Is imported by its name there, as processes are started afresh.
        given: What it is given; must be picklable.
        advance: Called here with what the first process reports.

    Raises:
        InputError: The batch does not part evenly, or there are fewer GPUs.
        TilthError: Whatever of it a process ended with.
    """
    import torch
    from torch.multiprocessing import get_context
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    check_parts(processes, batch)
    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise InputError(f"there are {torch.cuda.device_count()} GPUs here and not {processes}; set processes to that")
    channel: Any = get_context("spawn").Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = spawn(_begin, (processes, port, channel, learn, given), processes, join=False)
    failed: list[TilthError] = []
    try:
        while not started.join(timeout=WAIT_S):
            _hear(channel, advance, failed)
    except ProcessExitedException as error:
        raise InputError(
            f"a process that learned with others died ({error}); its memory may have been too small"
        ) from error
    except ProcessRaisedException:
        _hear(channel, advance, failed)
        if not failed:
            raise
    finally:
        for process in started.processes:
            process.terminate()
    _hear(channel, advance, failed)
    if failed:
        raise failed[0]


def _hear(channel: Any, advance: Advance, failed: list[TilthError]) -> None:
    with suppress(queue.Empty):
        while True:
            told = channel.get_nowait()
            if isinstance(told, TilthError):
                failed.append(told)
            else:
                advance(told[0], **told[1])


def _begin(rank: int, world: int, port: int, channel: Any, learn: Callable[..., None], given: Sequence[Any]) -> None:
    """Join the others, and learn."""
    import torch
    from accelerate import Accelerator

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    place = Place(rank=rank, world=world, accelerator=Accelerator(cpu=not torch.cuda.is_available()))

    def advance(n: int = 1, /, **shown: float) -> None:
        if rank == 0:
            channel.put((n, shown))

    try:
        learn(place, *given, advance)
    except TilthError as error:
        channel.put(error)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def on_cluster(
    address: str,
    processes: int,
    batch: int,
    learn: Callable[..., None],
    given: Sequence[Any],
    folder: Path,
    advance: Advance,
) -> None:
    """Call `learn(place, *given, advance)` in each of several workers of a Ray cluster.

    Args:
        address: Of the cluster; one is started on this machine when empty.
        processes: How many workers.
        batch: Images a step, which must part evenly.
        learn: What they do.
        given: What it is given; must be picklable.
        folder: Where all nodes see it, for what the first worker reports.
        advance: Called here with that.

    Raises:
        InputError: The batch does not part evenly, or a worker ended with bad input.
        Unavailable: Workers died again and again.
    """
    from tilth.engine.cluster import connect

    check_parts(processes, batch)
    connect(address)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    for file in (REPORT, FAILED):
        (folder / file).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _begin_there,
        train_loop_config={"learn": learn, "given": given, "folder": str(folder)},
        scaling_config=ScalingConfig(num_workers=processes, use_gpu=ray.cluster_resources().get("GPU", 0) >= processes),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=DEATHS)),
    )
    heard = threading.Event()
    listener = threading.Thread(target=_listen, args=(folder / REPORT, advance, heard), daemon=True)
    listener.start()
    try:
        trainer.fit()
    except Exception as error:
        raise Unavailable(f"the workers of the cluster died {DEATHS + 1} times; the last time: {error}") from error
    finally:
        heard.set()
        listener.join()
        shutil.rmtree(folder / "ray", ignore_errors=True)
    if (folder / FAILED).exists():
        raise InputError((folder / FAILED).read_text())


def _listen(path: Path, advance: Advance, ended: threading.Event) -> None:
    """Pass on what the first worker reports; after a restart it tells less than before, which is not passed on."""
    done = 0
    while not ended.wait(REPORT_S):
        with suppress(OSError, ValueError):
            told = json.loads(path.read_text())
            advance(max(0, told["done"] - done), **told["shown"])
            done = max(done, told["done"])


def _begin_there(given: Mapping[str, Any]) -> None:
    """Learn as a worker of Ray Train, which has joined the workers."""
    import torch
    from accelerate import Accelerator
    from ray.train import get_context

    folder, context = Path(given["folder"]), get_context()
    if (folder / FAILED).exists():  # what went wrong would go wrong again
        return
    place = Place(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        accelerator=Accelerator(cpu=not torch.cuda.is_available()),
    )
    done, told_at = 0, 0.0

    def advance(n: int = 1, /, **shown: float) -> None:
        nonlocal done, told_at
        done += n
        if place.rank == 0 and time.monotonic() - told_at > REPORT_S:
            told_at = time.monotonic()
            write_beside(folder / REPORT, json.dumps({"done": done, "shown": shown}))

    try:
        given["learn"](place, *given["given"], advance)
    except TilthError as error:
        write_beside(folder / FAILED, str(error))
        raise
