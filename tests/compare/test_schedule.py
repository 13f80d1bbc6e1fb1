"""Which cells are computed in the time that there is."""

from __future__ import annotations

import pytest

from nfaug.compare import CompareConfig
from nfaug.compare.rows import PIXELS, Row, rows_of, usual_ways
from nfaug.compare.schedule import next_cell

LADDER = rows_of(usual_ways(pretrained=True, spectrogram=False), [PIXELS])
SMALL = CompareConfig().table()


def simulated(
    rows: list[Row], cost: dict[str, float], total: float, seeds: int = 10, processes: int = 1
) -> tuple[dict[Row, int], float, list[Row]]:
    """Seeds of each row, the seconds that were used, and the rows in the order of computation."""
    clock = 0.0
    cells: dict[tuple[Row, int], float | None] = {}
    running: list[tuple[float, tuple[Row, int]]] = []
    order = []
    while True:
        job = None
        if len(running) < processes:
            job = next_cell(rows, cells, seeds, total - clock, processes, total)
        if job is not None:
            cells[job] = None
            order.append(job[0])
            running.append((clock + cost["frozen" if job[0].frozen else "trained"], job))
            continue
        if not running:
            break
        running.sort()
        clock, done = running.pop(0)
        cells[done] = cost["frozen" if done[0].frozen else "trained"]
    return {row: sum(1 for r, _ in cells if r == row) for row in rows}, clock, order


def test_cheap_rows_come_first_and_get_all_seeds() -> None:
    counts, _, order = simulated(LADDER, {"frozen": 3.0, "trained": 40.0}, 600)
    assert order[0] == LADDER[0] == Row(frozen=True)
    assert all(counts[row] == 10 for row in LADDER if row.frozen)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("cost", [5.0, 20.0, 45.0, 70.0, 130.0])
def test_the_time_is_used_and_not_exceeded(cost: float, processes: int) -> None:
    for rows in (LADDER, SMALL):
        costs = {"frozen": 3.0, "trained": cost}
        counts, used, _ = simulated(rows, costs, 600, 40, processes)
        assert used <= 600
        assert used > 600 - cost or min(counts.values()) == 40


def test_rows_are_left_out_before_seeds() -> None:
    counts, _, _ = simulated(SMALL, {"trained": 36.0}, 600, processes=1)
    assert counts[Row()] >= 5
    assert counts[Row(PIXELS)] >= 5
    assert counts[Row("", "randaugment")] >= 5
    assert counts[Row(PIXELS, "trivialaugment")] == 0
    counts, _, _ = simulated(SMALL, {"trained": 18.0}, 600)
    assert min(counts.values()) >= 5


def test_one_row_is_always_computed() -> None:
    for rows in (LADDER, SMALL):
        counts, _, order = simulated(rows, {"frozen": 90.0, "trained": 90.0}, 1.0)
        assert order == [rows[0]]
        assert sum(counts.values()) == 1
