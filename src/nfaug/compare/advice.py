"""What to do, from the figures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .figures import LEAST_IMAGES, LEAST_SEEDS, Cell, Gain, gain_of, is_significant
from .methods import Method

NO_EFFECT = 1.0  # points of accuracy that matter to nobody
MOST_LEFT = 0.05  # of the training loss without an augmentation, as a share of log(classes)
MOST_LEFT_OF_ITS_OWN = 0.2  # of a method's own training loss

CellsOfMethods = Mapping[Method, Mapping[int, Cell]]


class Finding(NamedTuple):
    """What the figures say.

    Attributes:
        best: The method to use; the first one if no other gain is significant.
        gain: Of the best method over the first or, if that is the best, the largest gain.
        largest: The method that this gain is of.
        no_effect: Whether every method's interval ends below one point.
        equals: Methods that the paired 95% interval of the best one's lead over them does not tell
            apart from it; empty if the first one is the best.
    """

    best: Method
    gain: Gain
    largest: Method
    no_effect: bool
    equals: list[Method]


def gain_between(cells: CellsOfMethods, ours: Method, other: Method) -> Gain:
    """The gain of a method over another one, in the seeds that both have."""
    seeds = sorted(set(cells[ours]) & set(cells[other]))
    return gain_of([cells[ours][seed] for seed in seeds], [cells[other][seed] for seed in seeds])


def finding_of(methods: Sequence[Method], cells: CellsOfMethods, later: int = 0) -> Finding | None:
    """The simplest method that the best one is not significantly above.

    The best method has the largest gain over the first one of those whose gain is significant:
    above zero by `is_significant`, which corrects for all methods and for earlier looks. Without
    any effect, a method is advised in about 2.5% of comparisons, and in at most 5% over all looks.

    Args:
        methods: The methods, in the order of cost; the first is what the others gain over.
        cells: The cells of each method by seed.
        later: The number of earlier looks at these results, with fewer seeds.

    Returns:
        The finding; None for fewer than three seeds or 30 test images.
    """
    base = methods[0]
    others = methods[1:]
    seeds = cells[base]
    images = len(next(iter(seeds.values())).right)
    if not others or len(seeds) < LEAST_SEEDS or images < LEAST_IMAGES:
        return None

    def is_above(ours: Method, other: Method) -> bool:
        return is_significant(gain_between(cells, ours, other), len(others), later)

    gains = {method: gain_between(cells, method, base) for method in others}
    largest = max(gains, key=lambda method: gains[method].mean)
    no_effect = all(gain.mean + gain.half < NO_EFFECT for gain in gains.values())
    significant = [method for method in others if is_above(method, base)]
    if not significant:
        return Finding(base, gains[largest], largest, no_effect, [])
    leader = max(significant, key=lambda method: gains[method].mean)
    good = [method for method in significant if method == leader or not is_above(leader, method)]
    best = min(good, key=lambda method: (_complexity(method), -gains[method].mean))
    equals = []
    for method in others:
        lead = gain_between(cells, best, method)
        if method != best and abs(lead.mean) <= lead.half:
            equals.append(method)
    return Finding(best, gains[best], best, False, equals)


def _complexity(method: Method) -> tuple[bool, int]:
    """What a method costs a user: training a network, then each augmentation."""
    return (not method.frozen, bool(method.flow) + bool(method.policy))


def is_too_short(left: float) -> bool:
    """Whether trainings ended too early to judge an augmentation.

    Args:
        left: The mean training loss of the last tenth of the steps without an augmentation, as a
            share of log(classes); NaN, which is not too short, if it is not known.

    With more left, gains had another sign than after 800 steps: lab/results/short.
    """
    return left > MOST_LEFT


def may_gain_more(method: Method, left: float) -> bool:
    """Whether a method still learns at the end of its training, so that more steps may help it.

    MixUp's loss says nothing of that, since no network can guess its weights.
    """
    return method.policy != "mixup" and bool(method.added) and left > MOST_LEFT_OF_ITS_OWN
