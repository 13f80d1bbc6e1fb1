"""The comparison with what people use already: settings of every rival by the same rule.

All choices are made on the images of the split "tuning", another draw than that on which flows and
defaults were chosen, with seeds that nothing else uses. "network" tries learning rates, weight
decays and steps with nothing but flip and crop (digits: shifts). "tuning" tries the candidates of
`rivals.py` with the network so chosen, each rival on its own, and "label-tuning" a few of them with
other numbers of labels. "stacked-tuning" puts the best of those that need no base before the best
RandAugment, and tries three shares p of augmented images there; "headline-tuning" does less of the
same for a larger network. "rivals", "labels", "headline" and "photographs" take the candidate with
the highest mean and measure it on test images, with seeds that no planned choice has seen. The
guide (docs/when-it-helps.md) lists the choices that were added after test results were seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, product

from .cells import Cell
from .gains import Rows
from .rivals import (
    NETWORK_SETTINGS,
    NONE,
    RIVALS,
    Candidate,
    Settings,
    by_share,
    nfa,
    protocol,
)

__all__ = [
    "RANDAUGMENTS",
    "choose",
    "choose_network",
    "choose_stacked",
    "headline",
    "headline_tuning",
    "label_tuning",
    "labels",
    "longer",
    "network_tuning",
    "photographs",
    "rivals",
    "stacked_tuning",
    "tuning",
]

FIRST_SEED = 1000  # of the reported cells
FINALISTS = 3
# RandAugments tried with each larger network. ResNet-18: a third was dropped, because two
# operations had a lower accuracy than none. small-swin: the last two were added after the first
# test seed, because two operations had a higher accuracy than one.
RANDAUGMENTS = {
    "resnet18": ("1:9", "2:9"),
    "small-swin": ("1:9", "2:9", "2:14:128", "3:14:128"),
}


def network_tuning(rows: Rows, data: str, network: str) -> list[Cell]:
    """Settings of a network, with geometry alone, on the split "tuning".

    All settings with one seed; when these cells are done, the best three with the other seeds of
    the protocol, or with one more for another network than the protocol's.

    Raises:
        ValueError: The network has no settings to try.
    """
    if network not in NETWORK_SETTINGS:
        raise ValueError(
            f"the network must be one of {', '.join(NETWORK_SETTINGS)}; got {network!r}"
        )
    known = protocol(data)
    first, *others = known.seeds
    if network != known.network:
        others = others[:1]
    tried = [_cell(data, NONE, first, "tuning", each) for each in NETWORK_SETTINGS[network]]
    if any(cell not in rows for cell in tried):
        return tried
    best = sorted(tried, key=lambda cell: _mean(rows, [cell]), reverse=True)[:FINALISTS]
    return tried + [replace(cell, seed=seed) for seed, cell in product(others, best)]


def choose_network(rows: Rows, data: str, network: str | None = None) -> Settings:
    """Of the best three, the settings with the highest mean; of the protocol's network by default.

    Raises:
        ValueError: Cells of the table "network" are missing.
    """
    network = network or protocol(data).network
    tried = network_tuning(rows, data, network)
    _check(rows, tried, f"network with --network {network}", data)
    finals = tried[len(NETWORK_SETTINGS[network]) :]
    seeds = {cell.seed for cell in tried}

    def mean(cell: Cell) -> float:
        return _mean(rows, (replace(cell, seed=seed) for seed in seeds))

    best = max(finals, key=mean)
    return best.network, best.steps


def tuning(rows: Rows, data: str) -> list[Cell]:
    """All candidates of every rival on the split "tuning".

    Raises:
        ValueError: Cells of the table "network" are missing for the protocol's network.
    """
    return _tuning(rows, data, protocol(data).per_class)


def label_tuning(rows: Rows, data: str) -> list[Cell]:
    """Fewer candidates with the other numbers of labels, on the same images.

    Raises:
        ValueError: Cells of the table "network" are missing for the protocol's network, or the data
            set has all labels alone.
    """
    return [cell for per_class in _labels(data) for cell in _tuning(rows, data, per_class)]


def _labels(data: str) -> tuple[int, ...]:
    if not protocol(data).labels:
        raise ValueError(
            f"{data} has no table of other numbers of labels: its table is photographs"
        )
    return protocol(data).labels


def _tuning(rows: Rows, data: str, per_class: int) -> list[Cell]:
    return _tried(rows, data, [NONE, *_all(_candidates(data, per_class))], per_class)


def _all(candidates: Mapping[str, list[Candidate]]) -> Iterable[Candidate]:
    return chain.from_iterable(candidates.values())


def _tried(
    rows: Rows, data: str, candidates: Iterable[Candidate], per_class: int | None = None
) -> list[Cell]:
    """The cells of candidates, with every seed of the protocol."""
    network = choose_network(rows, data)
    return [
        _cell(data, each, seed, "tuning", network, per_class)
        for seed, each in product(protocol(data).seeds, candidates)
    ]


def _best(
    rows: Rows,
    data: str,
    candidates: Mapping[str, list[Candidate]],
    per_class: int | None = None,
) -> dict[str, Candidate]:
    """Of each name, the candidate with the highest mean."""

    def mean(each: Candidate) -> float:
        return _mean(rows, _tried(rows, data, [each], per_class))

    return {name: max(tried, key=mean) for name, tried in candidates.items()}


def _candidates(data: str, per_class: int) -> Mapping[str, list[Candidate]]:
    known = protocol(data)
    return known.rivals if per_class == known.per_class else known.by_labels


def choose(rows: Rows, data: str, per_class: int | None = None) -> dict[str, Candidate]:
    """The candidate of each rival with the highest mean accuracy on the split "tuning".

    With the protocol's number of labels by default.

    Raises:
        ValueError: Cells of the tables "network", "tuning" or "label-tuning" are missing.
    """
    known = protocol(data)
    given = known.per_class if per_class is None else per_class
    table = "tuning" if given == known.per_class else "label-tuning"
    _check(rows, _tuning(rows, data, given), table, data)
    return _best(rows, data, _candidates(data, given), given)


def _choose_all(rows: Rows, data: str, table: str) -> dict[str, Candidate]:
    """What `choose` finds, for a table that compares all rivals."""
    known = protocol(data).rivals
    if missing := [name for name in RIVALS if name not in known]:
        raise ValueError(
            f"the table {table} needs candidates of all rivals; {data} has none of "
            f"{', '.join(missing)}"
        )
    return choose(rows, data)


def stacked_tuning(rows: Rows, data: str) -> list[Cell]:
    """NFA and what is simpler before RandAugment, for three shares of images.

    Raises:
        ValueError: Cells of the tables "network" or "tuning" are missing, or the data set has no
            candidates of some rivals.
    """
    return _tried(rows, data, _all(_stacked(rows, data)))


def choose_stacked(rows: Rows, data: str) -> dict[str, Candidate]:
    """What comes before RandAugment, each with its best share on the split "tuning".

    Raises:
        ValueError: Cells of the tables "network", "tuning" or "stacked-tuning" are missing.
    """
    candidates = _stacked(rows, data)
    _check(rows, _tried(rows, data, _all(candidates)), "stacked-tuning", data)
    return _best(rows, data, candidates)


def _stacked(rows: Rows, data: str) -> dict[str, list[Candidate]]:
    """Name -> candidates before RandAugment: the chosen settings at three shares p.

    NFA is tried with the default strength as well, so that settings with and without a flow can be
    the same.
    """
    chosen = _choose_all(rows, data, "stacked-tuning")
    after = chosen["RandAugment"].suffix
    found: dict[str, list[Candidate]] = {}
    for name, each in chosen.items():
        if not each.suffix:
            starts = [each, nfa(each.flow)] if each.arm == "nfa" else [each]
            tried = chain.from_iterable(map(by_share, dict.fromkeys(starts)))
            found[name] = [replace(one, suffix=after) for one in dict.fromkeys(tried)]
    return found


def longer(rows: Rows, data: str) -> list[Cell]:
    """Twice the steps for the arms that regularise most: do they need more? Split "tuning".

    Raises:
        ValueError: As `stacked_tuning`.
    """
    chosen = _choose_all(rows, data, "longer")
    arms = [
        NONE,
        *(chosen[name] for name in ("RandAugment", "CutMix", "NFA without a flow", "NFA")),
    ]
    network, steps = choose_network(rows, data)
    return [
        _cell(data, each, seed, "tuning", (network, 2 * steps))
        for seed, each in product(protocol(data).seeds, arms)
    ]


def rivals(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """Every rival alone and with NFA before it, and NFA with other flows, on test images.

    What is simpler than NFA, and NFA with latent noise, come before RandAugment as well, each with
    the share of images that "stacked-tuning" chose. The flows of the labelled images alone ("l"),
    of unlabelled images ("u") and of other images ("o") have one shape and fewer steps than the
    bundled flow, whose settings they take.
    """
    chosen, stacked = _choose_all(rows, data, "rivals"), choose_stacked(rows, data)
    augment, cutmix = chosen["RandAugment"], chosen["CutMix"]
    bases = [
        Candidate(bare=True),
        *(each for each in chosen.values() if each.suffix and each != augment),
    ]
    both = Candidate(suffix=f"{augment.suffix}+{cutmix.suffix}")
    arms = [
        *_before(bases, _with_and_without_nfa(chosen)),
        *_before([both], _with_and_without_nfa(stacked)),
        *(NONE, *(each for each in chosen.values() if not each.suffix)),
        *(replace(chosen["NFA"], flow=flow) for flow in ("l", "u", "o")),
        *(augment, *stacked.values()),
    ]
    return _reported(data, arms, seeds, choose_network(rows, data))


def labels(rows: Rows, data: str, seeds: int) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, with fewer and with more labels per class."""
    cells = []
    for per_class in _labels(data):
        network = choose_network(rows, data)
        chosen = choose(rows, data, per_class)
        arms = _before([NONE, chosen["RandAugment"]], _with_and_without_nfa(chosen))
        cells += _reported(data, arms, seeds, network, per_class)
    return cells


def photographs(rows: Rows, data: str, seeds: int, *, given: bool = False) -> list[Cell]:
    """The same with the labels of the protocol, for images larger than the flow.

    `given` adds the flow "f", with the settings of the bundled one.
    """
    chosen = choose(rows, data)
    nfa = _with_and_without_nfa(chosen)
    if given:
        nfa.append(replace(chosen["NFA"], flow="f"))
    arms = _before([NONE, chosen["RandAugment"]], nfa)
    return _reported(data, arms, seeds, choose_network(rows, data))


def headline_tuning(rows: Rows, data: str, network: str) -> list[Cell]:
    """A larger network's own RandAugment, and the share p of NFA before it, on the split "tuning".

    The RandAugment that is best for the small CNN lowers the accuracy of ResNet-18. One seed: the
    network's RandAugments; when these cells are done, NFA with two shares before the best one.

    Raises:
        ValueError: The network is none of those with RandAugments of its own, or cells of the
            tables "network" or "tuning" are missing.
    """
    tried = _large_randaugments(rows, data, network)
    if any(cell not in rows for cell in tried.values()):
        return list(tried.values())
    return [*tried.values(), *_before_large(rows, data, network).values()]


def _large(
    rows: Rows, data: str, network: str, candidates: Iterable[Candidate]
) -> dict[Candidate, Cell]:
    """The cells of candidates with a larger network, with one seed."""
    settings, seed = choose_network(rows, data, network), protocol(data).seeds[0]
    return {each: _cell(data, each, seed, "tuning", settings) for each in candidates}


def _large_randaugments(rows: Rows, data: str, network: str) -> dict[Candidate, Cell]:
    if network not in RANDAUGMENTS:
        known = ", ".join(RANDAUGMENTS)
        raise ValueError(f"the network must be one of {known}; got {network!r}")
    candidates = [Candidate(suffix=f"randaugment:{each}") for each in RANDAUGMENTS[network]]
    return _large(rows, data, network, candidates)


def _best_large(rows: Rows, tried: Mapping[Candidate, Cell]) -> Candidate:
    return max(tried, key=lambda each: _mean(rows, [tried[each]]))


def _before_large(rows: Rows, data: str, network: str) -> dict[Candidate, Cell]:
    """NFA with two shares p before the best RandAugment of a larger network."""
    best = _best_large(rows, _large_randaugments(rows, data, network))
    shares = by_share(choose(rows, data)["NFA"])[:2]
    before = [replace(each, suffix=best.suffix) for each in shares]
    return _large(rows, data, network, before)


def headline(rows: Rows, data: str, seeds: int, network: str) -> list[Cell]:
    """NFA on geometry alone and on RandAugment, for a larger network.

    Settings of NFA on geometry are those of the small CNN. The cells without a flow come last: a
    cell of ResNet-18 takes half an hour.

    Raises:
        ValueError: Cells of "network", "tuning" or "headline-tuning" are missing.
    """
    chosen, settings = choose(rows, data), choose_network(rows, data, network)
    tried = headline_tuning(rows, data, network)
    _check(rows, tried, f"headline-tuning with --network {network}", data)
    stacked = _best_large(rows, _before_large(rows, data, network))
    arms = [NONE, chosen["NFA"], Candidate(suffix=stacked.suffix), stacked]
    return [
        *_reported(data, arms, seeds, settings),
        *_reported(data, [chosen["NFA without a flow"]], seeds, settings),
    ]


def _check(rows: Rows, cells: list[Cell], table: str, data: str) -> None:
    if missing := sum(cell not in rows for cell in cells):
        raise ValueError(
            f"{missing} cells of the table {table} are missing for {data}: run it first"
        )


def _mean(rows: Rows, cells: Iterable[Cell]) -> float:
    return statistics.fmean(float(rows[cell]["accuracy"]) for cell in cells)


def _with_and_without_nfa(chosen: Mapping[str, Candidate]) -> list[Candidate]:
    return [NONE, chosen["NFA without a flow"], chosen["NFA"]]


def _before(bases: Iterable[Candidate], arms: Iterable[Candidate]) -> list[Candidate]:
    """Every arm before every base."""
    return [
        replace(base, arm=each.arm, flow=each.flow, settings=each.settings)
        for base, each in product(bases, arms)
    ]


def _reported(
    data: str,
    arms: Iterable[Candidate],
    seeds: int,
    network: Settings,
    per_class: int | None = None,
) -> list[Cell]:
    return [
        _cell(data, each, FIRST_SEED + seed, "test", network, per_class)
        for seed, each in product(range(seeds), arms)
    ]


def _cell(
    data: str,
    each: Candidate,
    seed: int,
    split: str,
    network: Settings,
    per_class: int | None = None,
) -> Cell:
    known = protocol(data)
    geometry = "" if each.bare else known.geometry
    base = "+".join(part for part in (geometry, each.suffix) if part) or "none"
    labelled = known.per_class if per_class is None else per_class
    name, steps = network
    return Cell(data, each.arm, each.flow, base, labelled, seed, split, steps, each.settings, name)
