"""A comparison in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from nfa_tools import TensorImages, write_images
from safetensors.torch import save_file

from nfaug.compare import CompareConfig
from nfaug.compare.images import read_images
from nfaug.compare.rows import Row
from nfaug.compare.run import compare
from nfaug.compare.work import Work
from nfaug.compare.workers import workers


def textures(count: int, side: int) -> TensorImages:
    """Images of two classes, none of which looks like another one."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = (255 * torch.nn.functional.interpolate(noise, (side, side))).byte()
    return TensorImages(pixels, torch.arange(count) % 2, ("a", "b"))


def test_processes_compute_what_one_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    settings = CompareConfig(
        per_class=6,
        network="test_resnet",
        weights=str(weights),
        rows="frozen,none,nfa+randaugment",
        seeds=2,
        steps=1,
        variants=2,
        device="cpu",
    )
    data = textures(64, 32)
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        with pytest.warns(UserWarning, match="seeds is 2"):
            found[name] = compare(
                data,
                config=settings,
                out=tmp_path / name,
                processes=processes,
                progress=False,
            )
    one, two = found.values()
    assert [row.name for row in one.rows][:3] == ["frozen", "frozen-small", "none"]
    assert one.rows == two.rows
    for row in one.rows:
        assert abs(one.accuracy(row) - two.accuracy(row)) < 20  # threads round differently
    assert sorted(entry.name for entry in (tmp_path / "two").iterdir()) == [
        "cells.csv", "gains.png", "plan.json", "settings.json", "table.md", "variants.png",
    ]  # fmt: skip


def test_an_error_of_a_process_is_its_own(tmp_path: Path) -> None:
    config = CompareConfig(per_class=4)
    data = read_images(textures(16, 8), config=config)
    folder = tmp_path / "images"

    def compute() -> None:
        with workers(data, config, 2, folder, id) as submit:
            with pytest.raises(FileNotFoundError, match="no-such-flow"):
                submit(Work.trained, [Row("./no-such-flow")], 0).result()
            for child in multiprocessing.active_children():
                child.kill()
            submit(Work.trained, [Row()], 0).result()

    with pytest.raises(ChildProcessError, match="--processes"):
        compute()
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of a terminal")
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_an_interruption_leaves_no_process(how: str, tmp_path: Path) -> None:
    """Break 99: after SIGKILL, decoded images stayed in the temporary folder."""
    write_images(tmp_path / "data", 16, train=24)
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "nfaug", "compare", "--data", "data", "--out", "out"]
    command += ["--per-class", "4", "--steps", "40", "--seeds", "500", "--processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=said, env=environment)
    out = tmp_path / "out"
    deadline = time.monotonic() + 120
    while not (out / "plan.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    started = children.read_text().split() if children.exists() else []
    process.send_signal(getattr(signal, how))
    code = process.wait(timeout=60)
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    if how == "SIGINT":
        assert code == 130, text
        assert "the same command goes on" in text
        assert not (out / ".images").exists()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in started):
        time.sleep(0.1)
    assert started
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "temporary").rglob("*.npy"))
    assert not (out / "table.md").exists()
    cells = (out / "cells.csv").read_text().splitlines()
    assert len(cells) > 5
    # The next run replaces what a killed one left, and removes it.
    with (tmp_path / "again").open("w") as said:
        again = subprocess.Popen(command, cwd=tmp_path, stderr=said, env=environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and again.poll() is None:
        if len((out / "cells.csv").read_text().splitlines()) > len(cells):
            break
        time.sleep(0.1)
    again.send_signal(signal.SIGINT)
    assert again.wait(timeout=60) == 130, (tmp_path / "again").read_text()
    assert not (out / ".images").exists()
    assert (out / "cells.csv").read_text().startswith("\n".join(cells))
