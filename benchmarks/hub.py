"""Time from an empty cache to the first augmented image, with a flow of the paper's size.

    python benchmarks/hub.py
    python benchmarks/hub.py --rounds 9 --threads 1

The Hub is the local one of the tests, in its own process. Each round is a new process with an empty
cache: after the imports it calls `NFAugment.from_pretrained("owner/flow")` and augments one image.
Download is the time inside the functions of huggingface_hub (requests, writing files). The rest is
the time of nfaug: hashing, reading, checking, freezing, encoding and decoding one image. It prints
medians over rounds, in wall time and in CPU time of the pulling process. The flow is untrained
(171 MB of weights), with 32 axes for each of ten classes.

The aim: the rest takes under 2 s on two cores.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = "owner/flow"
TESTS = Path(__file__).resolve().parent.parent / "tests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch threads (default: chosen by torch)")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        print(json.dumps(first_image(arguments.threads)))
        return
    sys.path.insert(0, str(TESTS))
    from loopback_server import LoopbackHub

    hub = LoopbackHub()
    hub.add(REPO, paper_sized())
    hub.start()
    try:
        rounds = [in_a_new_process(hub.endpoint) for _ in range(arguments.rounds)]
    finally:
        hub.stop()
        hub.close()
    print(f"{rounds[0]['bytes'] / 1e6:.0f} MB, torch on {rounds[0]['threads']} threads, medians of")
    print(f"{len(rounds)} rounds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| seconds | total | download | the rest |\n|---|---|---|---|")
    for clock in ("clock", "processor"):
        parts = zip(*(each[clock] for each in rounds), strict=True)
        total, download, rest = (statistics.median(part) for part in parts)
        print(f"| {clock} | {total:.2f} | {download:.2f} ({download / total:.0%}) | {rest:.2f} |")


def paper_sized() -> dict[str, bytes]:
    """The files of a checkpoint."""
    import torch

    from nfaug import Flow, FlowConfig
    from nfaug.checkpoint.checkpoint import Checkpoint, CheckpointConfig
    from nfaug.pca.fit import fit_pca

    flow = Flow(FlowConfig())
    generator = torch.Generator().manual_seed(0)
    latents = (torch.randn(50, flow.config.dim, generator=generator) for _ in range(10))
    config = CheckpointConfig(flow.config, class_names=tuple("abcdefghij"))
    with tempfile.TemporaryDirectory() as folder:
        Checkpoint(flow, config, pca=fit_pca(list(latents), rank=32)).save(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def in_a_new_process(endpoint: str) -> dict[str, Any]:
    """The result of `first_image` in a new process with an empty cache."""
    with tempfile.TemporaryDirectory() as home:
        environment = {name: v for name, v in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, __file__, "--client", *sys.argv[1:]]
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        return json.loads(run.stdout)


def first_image(threads: int | None) -> dict[str, Any]:
    """(total, download, rest) in seconds, as wall time and CPU time."""
    import torch

    import nfaug
    from nfaug.hub import fetch

    if threads:
        torch.set_num_threads(threads)
    inside = [0.0, 0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clocks()
            try:
                return function(*args, **kwargs)
            finally:
                inside[:] = [a + now - b for a, now, b in zip(inside, clocks(), start, strict=True)]

        return call

    fetch.snapshot_download = timed(fetch.snapshot_download)
    image, label = torch.rand(1, 3, 32, 32), torch.tensor([3])
    start = clocks()
    nfa = nfaug.NFAugment.from_pretrained(REPO, p=1.0)
    nfa(image, label)
    total = [now - then for now, then in zip(clocks(), start, strict=True)]
    held = Path(os.environ["HF_HOME"]).rglob("blobs/*")
    return {
        "clock": (total[0], inside[0], total[0] - inside[0]),
        "processor": (total[1], inside[1], total[1] - inside[1]),
        "threads": torch.get_num_threads(),
        "bytes": sum(file.stat().st_size for file in held),
    }


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
