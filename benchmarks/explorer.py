"""Seconds of one slider move in `nfaug explore`, with a bundled flow.

    python benchmarks/explorer.py
    python benchmarks/explorer.py --flow builtin:fashion-mnist --side 128

A slider move makes six variants and their differences. The page is served in a process of its own;
a client sets another strength and waits for the pictures, as a browser does. It prints the seconds
in the drawing function alone (wall time and CPU time of this process) and of the request, medians
over the rounds, and the load of the machine.

The aim: a request takes under 1 s on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from nfaug.augment.settings import MixSettings
from nfaug.explore.pictures import class_images, compare, open_flow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flow", default="builtin:rgb32")
    parser.add_argument("--side", type=int, choices=[64, 128, 224], help="pixels (the flow's size)")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    flow = open_flow(arguments.flow)
    label = flow.classes[0]
    image = class_images(flow, 0, 1, side=arguments.side)

    def draw(strength: float) -> None:
        compare(flow, image, 0, MixSettings(strength=strength))

    alone = median(draw, arguments.rounds, time.perf_counter)
    processor = median(draw, arguments.rounds, time.process_time)
    command = [sys.executable, "-m", "nfaug", "explore", "--no-browser", "--flow", arguments.flow]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        try:
            assert served.stderr is not None
            found = next(filter(None, (re.search(r"http://\S+?(?=/?;)", x) for x in served.stderr)))
            request = median(requests(found[0], arguments.flow, label, arguments.side),
                             arguments.rounds, time.perf_counter)  # fmt: skip
        finally:
            served.terminate()
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{arguments.flow}, {image.shape[-1]} pixels; load {load:.1f} on {cores} cores\n")
    print("| drawing, s | its CPU time, s | request, s |\n|---|---|---|")
    print(f"| {alone:.2f} | {processor:.2f} | {request:.2f} |")


def requests(address: str, flow: str, label: str, side: int | None) -> Callable[[float], None]:
    """A function that sets the strength on the page and waits for its pictures."""
    from gradio_client import Client

    client = Client(address, verbose=False, download_files=False)
    client.predict(flow, label, str(side or "native"), None, 0, api_name="/image")

    def move(strength: float) -> None:
        client.predict(
            flow, label, strength, 0, 16, 1, 1.25, True, "axis", "all", 0, api_name="/variants"
        )

    return move


def median(call: Callable[[float], None], rounds: int, clock: Callable[[], float]) -> float:
    """Median seconds of a call; the first two are not counted."""
    seconds = []
    for index in range(rounds + 2):
        start = clock()
        call(0.5 + 0.1 * (index % 10))
        seconds.append(clock() - start)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
