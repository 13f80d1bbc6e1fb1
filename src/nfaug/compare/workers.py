"""Processes that compute the cells of a comparison, one a core."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import CompareConfig
from .report.figures import Cell
from .rows import Row
from .transforms import transform_of
from .work import Work

__all__ = ["Workers", "main"]

#: One thread each, so that none waits for another one; and memory that is freed is kept by glibc,
#: since the kernel's new pages take a third of the time of a small network.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


class Workers:
    """Computes jobs in processes of their own, or with a single one in this process.

    The processes take no signals of the terminal: after Ctrl-C this object ends them.

    Args:
        folder: The folder of images; see `Work`.
        config: What is compared.
        classes: The number of classes.
        count: The number of processes.
    """

    def __init__(self, folder: Path, config: CompareConfig, classes: int, count: int) -> None:
        self.count: int = count
        self._here: Work | None = None
        self._idle: queue.Queue[subprocess.Popen[str]] = queue.Queue()
        self._processes: list[subprocess.Popen[str]] = []
        if count == 1:
            self._here = Work(folder, config, classes)
            return
        task = json.dumps(
            {
                "path": sys.path,
                "folder": str(folder),
                "config": asdict(config),
                "classes": classes,
            }
        )
        # The path of modules comes first: a file of the user's folder is not to hide one of ours.
        start = (
            "import json, sys; task = json.loads(sys.stdin.readline()); sys.path[:] = task['path'];"
            "from nfaug.compare.workers import main; main(task)"
        )
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_ENVIRONMENT | dict(os.environ) | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
            self._processes.append(process)
            self._send(process, task)
            self._idle.put(process)

    def __enter__(self) -> Workers:
        self._threads = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._threads.shutdown()
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def cell(self, row: Row, seed: int) -> Future[Cell]:
        """Compute a cell."""
        if self._here is not None:
            return _done(self._here.cell(row, seed))
        return self._threads.submit(self._remote_cell, row, seed)

    def _remote_cell(self, row: Row, seed: int) -> Cell:
        answer = self._ask({"row": list(row), "seed": seed})
        packed = np.frombuffer(base64.b64decode(answer["right"]), np.uint8)
        right = np.unpackbits(packed, count=answer["count"]) > 0
        return Cell(right, answer["seconds"], answer["strength"])

    def features(self, start: int, stop: int) -> Future[NDArray[np.float32]]:
        """Compute the features of some of the images to judge by."""
        if self._here is not None:
            return _done(self._here.features_of_judged(start, stop))
        return self._threads.submit(self._remote_features, start, stop)

    def _remote_features(self, start: int, stop: int) -> NDArray[np.float32]:
        answer = self._ask({"start": start, "stop": stop})
        stored = np.frombuffer(base64.b64decode(answer["features"]), np.float32)
        return stored.reshape(stop - start, -1)

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Send a job to an idle process, and wait for its answer.

        Raises:
            ValueError: The job failed.
            ChildProcessError: The process ended.
        """
        process = self._idle.get()
        assert process.stdout is not None
        try:
            self._send(process, json.dumps(job))
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildProcessError(
                f"a process of the comparison ended (exit code {process.wait()}); if memory is "
                "short, try --processes 1"
            )
        self._idle.put(process)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    @staticmethod
    def _send(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _done(result: Any) -> Future[Any]:
    """A future that has its result."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def main(task: dict[str, Any]) -> None:
    """Answer the jobs on standard input, a line of JSON each, until it ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    config = task["config"]
    config["checkpoint"] = tuple(config["checkpoint"])
    work = Work(Path(task["folder"]), CompareConfig(**config), task["classes"])
    transform_of((), "", (8, 8))  # torchvision is slow to import: not in the time of a cell
    for answer in _answers(work):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answers(work: Work) -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if "row" not in job:
                features = work.features_of_judged(job["start"], job["stop"])
                yield {"features": base64.b64encode(features.tobytes()).decode()}
                continue
            cell = work.cell(Row(*job["row"]), job["seed"])
        except (ValueError, OSError, ArithmeticError) as error:
            yield {"error": str(error)}
            continue
        yield {
            "right": base64.b64encode(np.packbits(cell.right).tobytes()).decode(),
            "count": len(cell.right),
            "seconds": cell.seconds,
            "strength": cell.strength,
        }
