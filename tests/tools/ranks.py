"""Jobs on several processes, set up as `torchrun` does.

The processes are forked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor

from nfaug.classes.fixed_point import FixedPointConfig
from nfaug.data.augmentation import FlowAugmentation
from nfaug.data.batches import Decoded, in_memory
from nfaug.data.image_files import ImageDecodeError
from nfaug.data.images import Images
from nfaug.data.source import ArraySource
from nfaug.fitting.config import PCAConfig
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig
from nfaug.run.ranks import joined
from nfaug.run.shared import shared_tensor
from nfaug.training import RunStopped, TrainConfig, TrainResult, loop, train
from nfaug.training.config import DataConfig, OptimConfig, TrainPriorConfig
from nfaug.training.metrics import class_statistics
from tools.forked import run_python
from tools.nfa import NAMES, TensorImages, images_of

CONFIG = TrainConfig(
    epochs=2,  # of 5 steps, the last of one image: too few for two processes
    batch_size=15,
    lr=2e-3,
    tensorboard=False,
    pictures_every=0,
    flow=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
    dataset=DataConfig(test_fraction=0.2),
    prior=TrainPriorConfig(fixed_point=FixedPointConfig(kld_weight=20.0)),
    optim=OptimConfig(warmup_steps=5, recompute="steps"),
    pca=PCAConfig(rank=4),
    augmentation=FlowAugmentation(hflip=True, pad_crop=1, rotation=12, contrast=0.1),
    device="cpu",
)


def images() -> TensorImages:
    """76 images of three classes; 15 are held out."""
    labels = torch.arange(76) % 3
    return TensorImages(images_of(labels, channels=1), labels, NAMES)


class Rank(NamedTuple):
    """Exit code and standard error of one process of a job."""

    code: int
    err: str


def run_ranks(jobs: Sequence[str], out: Path, count: int = 2) -> dict[str, list[Rank]]:
    """Run jobs of this file one after another, each on `count` processes."""
    ran = run_python([__file__, ",".join(jobs), out, count])
    assert ran.returncode == 0, ran.stderr
    codes = json.loads(ran.stdout.splitlines()[-1])
    return {
        job: [
            Rank(code, (out / f"{job}-{rank}.err").read_text())
            for rank, code in enumerate(codes[job])
        ]
        for job in jobs
    }


def tensors_of(result: TrainResult) -> dict[str, Tensor]:
    """Averaged weights, gaussians and losses."""
    checkpoint = result.checkpoint
    assert checkpoint.gaussians is not None
    found = {f"average.{k}": v for k, v in checkpoint.flow.state_dict().items()}
    found |= {f"gaussians.{k}": v for k, v in checkpoint.gaussians.state_dict().items()}
    found["losses"] = torch.tensor(result.loss, dtype=torch.float64)
    for name in ("bits_per_dim", "nf_acc"):
        rows = [row[name] for row in result.history]
        found[name] = torch.tensor(rows, dtype=torch.float64)
    return {name: value.contiguous() for name, value in found.items()}


def statistics() -> dict[str, Tensor]:
    """Class statistics of a flow's latents, in float64."""
    labels = torch.arange(90) % 3
    torch.manual_seed(0)
    config = FlowConfig(
        channels=1,
        image_size=(8, 8),
        backbone=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8)),
    )
    with joined() as ranks:
        stats = class_statistics(
            Flow(config),
            Decoded(images_of(labels, channels=1), labels),
            torch.randperm(90, generator=torch.Generator().manual_seed(0)),
            3,
            batch_size=16,
            generator=torch.Generator().manual_seed(1),
            ranks=ranks,
        )
    counts, means, variances = stats.finalize()
    return {"counts": counts, "means": means, "variances": variances}


# Jobs, called with the folder and the rank.


def job_train(out: Path, rank: int) -> int:
    save_file(tensors_of(train(images(), config=CONFIG, progress=False)), out / f"train-{rank}.st")
    save_file(statistics(), out / f"statistics-{rank}.st")
    return 0


def job_resume(out: Path, rank: int) -> int:
    """The second process receives SIGTERM; then all resume."""
    calls = 0
    forward = loop.FlowLoss.forward

    def counted(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args)

    loop.FlowLoss.forward = counted  # type: ignore[method-assign]
    folder = out / "resume"
    try:
        train(images(), config=CONFIG, out=folder, progress=False)
    except KeyboardInterrupt as error:
        (out / f"stopped-{rank}").write_text(str(error))
    resumed = train(images(), config=CONFIG, out=folder, resume=True, progress=False)
    save_file(tensors_of(resumed), out / f"resumed-{rank}.st")
    return 0


class Corrupt(ArraySource):
    """Images that cannot be read once `armed`."""

    armed = False

    def read(self, index: int) -> Tensor:
        if self.armed:
            raise ImageDecodeError("image 3.png cannot be read")
        return super().read(index)


def job_lost(out: Path, rank: int) -> int:
    """One process cannot read an image; the other must not hang."""
    whole = images()
    source = Corrupt(
        where="the images", classes=list(NAMES), targets=whole.targets, images=whole.images
    )
    data = Images(source, whole.view, whole.rows)
    settings = DataConfig(test_fraction=0, memory_gib=0, workers=0)
    config = dataclasses.replace(CONFIG, dataset=settings)
    forward = loop.FlowLoss.forward

    def armed(*args: Any) -> Tensor:
        source.armed = rank == 1
        return forward(*args)

    loop.FlowLoss.forward = armed  # type: ignore[method-assign]
    try:
        train(data, config=config, out=out / "lost", progress=False)
    except RunStopped as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def job_command(out: Path, rank: int) -> int:
    """The command, as torchrun -m nfaug.training runs it."""
    from nfaug.cli import main

    with (out / f"command-{rank}.out").open("w") as file, contextlib.redirect_stdout(file):
        return main(["train", *json.loads((out / "words.json").read_text())])


def job_fit(out: Path, rank: int) -> int:
    """`nfaug fit`, as torchrun runs it."""
    from nfaug.cli import main

    with (out / f"fit-{rank}.out").open("w") as file, contextlib.redirect_stdout(file):
        return main(["fit", *json.loads((out / "fit.json").read_text())])


def job_share(out: Path, rank: int) -> int:
    """Images in shared memory, of which each process reads a part."""
    reads: list[int] = []

    class Counted(TensorImages):
        def image(self, index: int) -> Tensor:
            reads.append(index)
            return super().image(index)

        def subset(self, indices: Tensor) -> Counted:
            return Counted(self.images[indices], self.targets[indices], NAMES)

    class Lost(Counted):
        def subset(self, indices: Tensor) -> Lost:
            return Lost(self.images[indices], self.targets[indices], NAMES)

        def image(self, index: int) -> Tensor:
            if rank == 1:
                raise ImageDecodeError("image 3.png cannot be read")
            return super().image(index)

    os.environ["TMPDIR"] = str(out)
    labels = torch.arange(36) % 3
    found: dict[str, Any] = {"error": ""}
    with joined() as ranks:
        data = in_memory(Counted(images_of(labels), labels, NAMES), ranks=ranks)
        assert isinstance(data, Decoded)
        assert torch.equal(data.images, images_of(labels))
        found["sum"] = int(data.images.sum())
        found["reads"] = len(reads)
        rows = shared_tensor((20, 2), torch.float16, ranks, step=8).rows
        found["rows"] = [rows.start, rows.stop]
        with mock.patch("socket.gethostname", return_value=f"machine {rank}"):  # of one TMPDIR
            rows = shared_tensor((20, 2), torch.float16, ranks).rows
        found["rows of a machine"] = [rows.start, rows.stop]
        try:
            in_memory(Lost(images_of(labels), labels, NAMES), ranks=ranks)
        except ImageDecodeError as error:
            found["error"] = str(error)
        own = {number: 10 * number for number in range(rank, 3, 2)}
        found["collected"] = list(ranks.collect(own.pop, 3, everywhere=False))
    (out / f"share-{rank}.json").write_text(json.dumps(found))
    return 0


JOBS: dict[str, Callable[[Path, int], int]] = {
    name[4:]: job for name, job in globals().items() if name.startswith("job_")
}


def _main() -> None:
    jobs, out, count = sys.argv[1].split(","), Path(sys.argv[2]), int(sys.argv[3])
    codes = {}
    for job in jobs:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(job, out, rank, count, port) for rank in range(count)]
        codes[job] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))


def _fork(job: str, out: Path, rank: int, count: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(count)}
    os.dup2(os.open(out / f"{job}-{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    code = 99
    try:
        code = JOBS[job](out, rank)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


if __name__ == "__main__":
    _main()
