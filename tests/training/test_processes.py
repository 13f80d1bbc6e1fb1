"""Several processes give the same result as one, and an error in one does not hang the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tools.forked import run_python
from tools.ranks import CONFIG, Rank, images, run_ranks, statistics, tensors_of
from torch import Tensor

import nfaug
from nfaug.cli import main
from nfaug.data.batches import Decoded
from nfaug.run.ranks import Ranks, joined
from nfaug.training import train
from nfaug.training.distributed import shared_batches
from nfaug.training.snapshots import Snapshots


class Ran(NamedTuple):
    """The folder of the jobs' files, and how each process ended."""

    out: Path
    ranks: dict[str, list[Rank]]


@pytest.fixture(scope="module")
def ran(tiny_folder: Path, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All jobs, on two processes each. Read only."""
    out = tmp_path_factory.mktemp("ranks")
    (out / "words.json").write_text(json.dumps(words(tiny_folder, out / "flow")))
    (out / "fit.json").write_text(json.dumps(fit_words(tiny_folder, tiny_path, out / "fitted")))
    return Ran(out, run_ranks(["train", "resume", "lost", "command", "fit", "share"], out))


def test_a_group_without_the_cpu_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("cuda:gloo", store=store, rank=0, world_size=1)
    try:
        with joined() as alone:
            assert alone.count == 1
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        with pytest.raises(ValueError, match="cpu:gloo"), joined():
            pytest.fail("a sum would fail")
    finally:
        torch.distributed.destroy_process_group()


def both(out: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    one, other = (load_file(out / f"{name}-{rank}.st") for rank in range(2))
    return one, other


def test_two_processes_equal_one(ran: Ran) -> None:
    """Statistics and losses within 1e-5, with batches of odd size.

    Some CPUs convolve batches of other sizes by other kernels, which round float32 otherwise.
    """
    assert ran.ranks["train"] == [Rank(0, "")] * 2
    mine, theirs = both(ran.out, "train")
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert not different, "weights, gaussians and metrics are equal on every process"

    alone = tensors_of(train(images(), config=CONFIG, progress=False))
    assert len(alone["losses"]) == 10
    for name in ("losses", "bits_per_dim"):
        torch.testing.assert_close(mine[name], alone[name], rtol=1e-5, atol=0)
    assert torch.equal(mine["nf_acc"], alone["nf_acc"])
    torch.testing.assert_close(mine["gaussians.means"], alone["gaussians.means"])

    expected = statistics()
    for found in both(ran.out, "statistics"):
        assert torch.equal(found["counts"], expected["counts"])
        for name in ("means", "variances"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_signal_to_one_process_stops_all_and_the_run_resumes(ran: Ran) -> None:
    assert ran.ranks["resume"] == [Rank(0, "")] * 2
    for rank in range(2):
        assert "step 6" in (ran.out / f"stopped-{rank}").read_text()
    calm, resumed = both(ran.out, "train"), both(ran.out, "resumed")
    for one, other in zip(calm, resumed, strict=True):
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_an_error_in_one_process_does_not_hang_the_others(ran: Ran) -> None:
    other, mine = ran.ranks["lost"]
    assert (other.code, mine.code) == (4, 4)
    assert mine.err.startswith("image 3.png")
    assert "step 0" in mine.err
    assert other.err.startswith("another process")
    assert "Traceback" not in mine.err + other.err
    assert Snapshots(ran.out / "lost").steps() == [0]


def test_the_command_on_two_processes(ran: Ran) -> None:
    """Only the main process writes and prints."""
    main, other = ran.ranks["command"]
    assert (main.code, other) == (0, Rank(0, ""))
    assert main.err.count("train: epoch") == 1
    check_command(ran.out / "flow", (ran.out / "command-0.out").read_text())
    assert (ran.out / "command-1.out").read_text() == ""


def test_a_fit_on_two_processes_equals_one(ran: Ran, tiny_folder: Path, tiny_path: Path) -> None:
    """Three classes on two processes: bit for bit, and nothing is left beside the checkpoint."""
    first, second = ran.ranks["fit"]
    assert (first.code, second) == (0, Rank(0, ""))
    assert first.err.count("fitting") == 1
    assert json.loads((ran.out / "fit-0.out").read_text())["images"] == 36
    assert (ran.out / "fit-1.out").read_text() == ""
    assert main(["fit", *fit_words(tiny_folder, tiny_path, ran.out / "alone")]) == 0
    one, two = (nfaug.load(ran.out / name) for name in ("alone", "fitted"))
    assert one.pca is not None
    assert two.pca is not None
    ours, theirs = one.pca.tensors(), two.pca.tensors()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert one.gaussians is not None
    assert two.gaussians is not None
    ours, theirs = one.gaussians.state_dict(), two.gaussians.state_dict()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert one.config == two.config
    assert not (ran.out / ".fitted.fit").exists()


def test_each_process_reads_a_part_of_the_images(ran: Ran) -> None:
    """The 36 images are in memory that both map, and so are their latents."""
    assert ran.ranks["share"] == [Rank(0, "")] * 2
    reads = [json.loads((ran.out / f"share-{rank}.json").read_text()) for rank in range(2)]
    assert [found["reads"] for found in reads] == [18, 18]
    assert reads[0]["sum"] == reads[1]["sum"] > 0
    assert [found["rows"] for found in reads] == [[0, 8], [8, 20]], "parts of whole steps"
    assert [found["rows of a machine"] for found in reads] == [[0, 20], [0, 20]]
    assert [found["error"] for found in reads] == ["image 3.png cannot be read"] * 2
    assert [found["collected"] for found in reads] == [[0, 10, 20], []], "to the main one"
    assert not list(ran.out.glob("nfaug-*")), "the file has no name"


def fit_words(tiny_folder: Path, tiny_path: Path, out: Path) -> list[str]:
    words = ["--checkpoint", str(tiny_path), "--data", str(tiny_folder), "--rank", "4"]
    return [*words, "--gaussians", "data", "--out", str(out), "--json"]


def words(tiny_folder: Path, out: Path) -> list[str]:
    return [
        *("--data", str(tiny_folder), "--out", str(out), "--json", "--pictures-every", "0"),
        *("--tensorboard=false", "--epochs", "1", "--batch-size", "12", "--pca.rank", "4"),
        *("--flow.steps", "[1, 1]", "--flow.blocks", "[1, 1]", "--flow.width", "[8, 8]"),
        *("--prior.fixed-point.kld-weight", "20"),
    ]


def check_command(out: Path, printed: str) -> None:
    figures = json.loads(printed)
    assert figures["processes"] == 2
    assert figures["steps"] == 3
    assert nfaug.load(out).pca is not None
    assert (out / "log.csv").read_text().count("\n") == 2


def launched(launcher: list[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, "-m", "nfaug.training", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_module_that_torchrun_runs(tiny_folder: Path, tmp_path: Path) -> None:
    ran = run_python(["-m", "nfaug.training", *words(tiny_folder, tmp_path / "flow")])
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["processes"] == 1
    assert nfaug.load(tmp_path / "flow").pca is not None


@pytest.mark.soak
def test_torchrun(tiny_folder: Path, tmp_path: Path) -> None:
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    ran = launched(launcher, words(tiny_folder, tmp_path / "flow"))
    assert ran.returncode == 0, ran.stderr
    check_command(tmp_path / "flow", ran.stdout)


GROUPS = """
import os, torch
from nfaug.run.ranks import joined

for number in range(6):
    with joined() as ranks:
        assert ranks.everyone(number) == [number] * 2
torch.distributed.init_process_group("gloo")
torch.distributed.barrier()
print("joined", os.environ["RANK"])
"""


@pytest.mark.soak
def test_groups_follow_each_other(tmp_path: Path) -> None:
    """torchrun's store keeps the keys of a group; the next one waited for those that were gone."""
    (tmp_path / "groups.py").write_text(GROUPS)
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29519"]
    command = [sys.executable, "-m", *launcher, str(tmp_path / "groups.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.split()) == ["0", "1", "joined", "joined"]


def test_parts_of_a_batch() -> None:
    """Every row counts once, in order; extra processes repeat the first row with weight 0."""
    for size, expected in ((7, [3, 2, 2]), (6, [2, 2, 2]), (2, [1, 1, 1]), (1, [1, 1, 1])):
        data = Decoded(torch.arange(size), torch.arange(size))
        shards = [
            next(shared_batches(data, torch.arange(size), 8, Ranks(3, rank))) for rank in range(3)
        ]
        assert [len(shard.images) for shard in shards] == expected
        counted = [shard for shard in shards if shard.weight]
        assert torch.cat([shard.images for shard in counted]).tolist() == [*range(size)]
        assert all(torch.equal(torch.arange(size)[s.part], s.labels) for s in shards)
        assert {shard.total for shard in shards} == {size}
