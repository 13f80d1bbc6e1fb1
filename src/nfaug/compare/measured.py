"""What NFA and RandAugment gained in measured comparisons, by accuracy without an augmentation."""

from __future__ import annotations

import statistics

#: Small networks from scratch with 10 labels per class, over what is safe: the study and its
#: images, accuracy without more, and the gains of NFA in pixels and of RandAugment, at their
#: defaults. `python lab/measured.py` writes these lines.
MEASURED = (
    ("final/clothes", 23.1, 5.7, 5.8),
    ("defaults/clothes", 25.9, 5.6, 5.2),
    ("defaults/cifar10", 32.5, 3.1, 3.8),
    ("final/cifar10", 32.6, 3.3, 3.7),
    ("defaults/groceries", 55.2, -1.0, -7.3),
    ("final/groceries", 65.0, 0.9, 2.9),
    ("defaults/fashion", 71.2, 1.9, 4.9),
    ("defaults/letters", 73.9, 0.1, -0.2),
    ("defaults/signs", 75.2, 4.7, 11.9),
    ("defaults/steel", 75.3, 3.7, 1.4),
    ("final/signs", 77.0, 3.3, 13.4),
    ("final/cells", 77.2, 1.8, -1.3),
    ("final/letters", 77.7, -0.5, -0.7),
    ("defaults/cells", 78.4, 2.4, -2.4),
    ("final/steel", 83.2, 1.8, 0.2),
)
_FEW = 55.0  # per cent: where gains were larger below than above


def measured_gains(accuracy: float) -> str:
    """A sentence on the measured comparisons that were like one of this accuracy in per cent."""
    low = accuracy < _FEW
    alike = [row for row in MEASURED if (row[1] < _FEW) == low]
    where = "below" if low else "of at least"
    ours = _summary([row[2] for row in alike])
    theirs = _summary([row[3] for row in alike])
    return (
        f"Measured before, in {len(alike)} comparisons from scratch with an accuracy {where} "
        f"{_FEW:g}% without an augmentation: NFA in pixels {ours}, RandAugment {theirs} points."
    )


def _summary(gains: list[float]) -> str:
    return f"{statistics.fmean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"
