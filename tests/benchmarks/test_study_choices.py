"""How the study chooses the settings of NFA and of its rivals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.study import comparison, rivals
from benchmarks.study.cells import Cell


def tuned(network: str, rows: dict[Cell, dict[str, str]], name: str = "cifar10") -> Cell:
    """Add both rounds of the table "network" to `rows`; returns the first cell of the best."""
    first = comparison.network_tuning(rows, name, network)
    rows |= {cell: {"accuracy": f"{50 + n}"} for n, cell in enumerate(first)}
    second = comparison.network_tuning(rows, name, network)[len(first) :]
    assert {replace(cell, seed=first[0].seed) for cell in second} == set(first[-3:])
    best = second[1]
    rows |= {cell: {"accuracy": f"{50 + 20 * (cell.network == best.network)}"} for cell in second}
    assert {(cell.arm, cell.base, cell.split) for cell in first + second} == {
        ("none", rivals.protocol(name).geometry, "tuning")
    }
    return best


def stack(rows: dict[Cell, dict[str, str]]) -> None:
    """Add the table "stacked-tuning" to `rows`; a share of 0.2 is best."""
    tried = comparison.stacked_tuning(rows, "cifar10")
    assert len(set(tried)) == 3 * 5 * 3, "three shares of what needs no base"
    assert {cell.split for cell in tried} == {"tuning"}
    assert len({cell.base for cell in tried}) == 1
    rows |= {cell: {"accuracy": "60" if "p=0.2" in cell.settings else "50"} for cell in tried}


def test_rivals_are_chosen_by_one_rule_and_reported_on_other_seeds() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    with pytest.raises(ValueError, match="6 cells"):
        comparison.tuning(rows, "cifar10")
    network = tuned("small-cnn", rows).network
    tried = comparison.tuning(rows, "cifar10")
    assert {(cell.split, cell.network) for cell in tried} == {("tuning", network)}
    for known in (rivals.RIVALS, rivals.GRAY_RIVALS):
        numbers = {name: len(set(each)) for name, each in known.items()}
        assert numbers.pop("RandAugment") == 9
        assert set(numbers.values()) == {6}, "equal budgets"
    rows |= {
        cell: {"accuracy": "60" if "@0.5" in cell.base or "p=0.8" in cell.settings else "50"}
        for cell in tried
        if cell not in rows
    }
    chosen = comparison.choose(rows, "cifar10")
    assert chosen["CutMix"].suffix == "cutmix:0.2@0.5"
    assert chosen["NFA"].settings.startswith("p=0.8")
    with pytest.raises(ValueError, match="table stacked-tuning"):
        comparison.rivals(rows, "cifar10", 2)
    stack(rows)
    reported = comparison.rivals(rows, "cifar10", 2)
    assert {(cell.split, cell.network) for cell in reported} == {("test", network)}
    assert not {cell.seed for cell in reported} & {cell.seed for cell in rows}
    assert len(set(reported)) == len(reported) == 2 * (8 * 3 + 3 + 6)
    assert {cell.base for cell in reported if cell.arm == "none"} == {
        "none",
        "flip+crop:4",
        "flip+crop:4+randaugment:2:9@0.5+cutmix:0.2@0.5",
        *(f"flip+crop:4+{each.suffix}" for each in chosen.values() if each.suffix),
    }
    before = {cell.settings for cell in reported if cell.base.endswith("randaugment:2:9@0.5")}
    assert {text.partition(" ")[0] for text in before} == {"", "p=0.2"}
    longer = comparison.longer(rows, "cifar10")
    assert {(cell.split, cell.steps) for cell in longer} == {("tuning", 4000)}
    assert len({replace(cell, steps=2000) for cell in longer} & set(tried)) == len(longer) == 15
    with pytest.raises(ValueError, match="table label-tuning"):
        comparison.labels(rows, "cifar10", 2)
    by_labels = comparison.label_tuning(rows, "cifar10")
    assert len(set(by_labels)) == 3 * 3 * (1 + 5 + 2 * 3), "RandAugment has five"
    rows |= {
        cell: {"accuracy": "60" if f"p=0.{cell.per_class // 100}" in cell.settings else "50"}
        for cell in by_labels
    }
    assert not {cell.per_class for cell in by_labels} & {cell.per_class for cell in tried}
    fewer = comparison.labels(rows, "cifar10", 2)
    assert {cell.per_class for cell in fewer} == {10, 100, 500}
    assert len(set(fewer)) == len(fewer) == 2 * 3 * 6
    most = {cell.settings for cell in fewer if cell.per_class == 500 and cell.arm == "nfa"}
    assert most == {"p=0.5 strength=1.5 gate=1.25 variants=20"}
    del rows[tried[0]]
    with pytest.raises(ValueError, match="1 cells"):
        comparison.choose(rows, "cifar10")


def test_nfa_before_randaugment_has_its_default_strength_as_well() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    tuned("small-cnn", rows)
    rows |= {
        cell: {"accuracy": "60" if "alpha=0.1" in cell.settings and cell.flow == "p" else "50"}
        for cell in comparison.tuning(rows, "cifar10")
        if cell not in rows
    }
    assert (
        "alpha=0.1 strength=1 " in comparison.choose(rows, "cifar10")["NFA without a flow"].settings
    )
    before = {cell for cell in comparison.stacked_tuning(rows, "cifar10") if cell.flow == "p"}
    kinds = {cell.settings.partition(" ")[2] for cell in before}
    assert kinds == {
        "alpha=0.1 strength=1 gate=1.25 variants=20",
        "strength=1.5 gate=1.25 variants=20",
    }
    assert len(before) == 3 * 3 * 2, "seeds, shares p and strengths"


def test_a_table_that_does_not_fit_the_data_is_refused() -> None:
    for table in (comparison.longer, comparison.stacked_tuning):
        with pytest.raises(ValueError, match="CutMix"):
            table({}, "digits")
    with pytest.raises(ValueError, match="CutMix"):
        comparison.rivals({}, "digits", 2)
    with pytest.raises(ValueError, match="photographs"):
        comparison.label_tuning({}, "clothing128")
    with pytest.raises(ValueError, match="photographs"):
        comparison.labels({}, "clothing128", 2)


def test_photographs_have_choices_of_their_own() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    tuned("photo-cnn", rows, "clothing128")
    tried = comparison.tuning(rows, "clothing128")
    assert {(cell.per_class, cell.split) for cell in tried} == {(0, "tuning")}
    assert len(set(tried)) == 2 * (1 + 5 + 2 * 3), "two seeds; RandAugment has five"
    rows |= {
        cell: {"accuracy": "60" if "p=0.2" in cell.settings else "50"}
        for cell in tried
        if cell not in rows
    }
    found = comparison.photographs(rows, "clothing128", 3)
    assert len(set(found)) == len(found) == 3 * 2 * 3
    assert {cell.base for cell in found} == {"flip+crop:12", "flip+crop:12+randaugment:1:9@0.5"}
    assert {cell.flow for cell in found} == {"-", "p32", "b"}
    assert {cell.settings.partition(" ")[0] for cell in found} == {"", "p=0.2"}
    more = comparison.photographs(rows, "clothing128", 3, given=True)
    assert {cell.flow for cell in set(more) - set(found)} == {"f"}


def test_settings_of_a_larger_network_are_chosen_in_two_rounds() -> None:
    rows: dict[Cell, dict[str, str]] = {}
    tuned("small-cnn", rows)
    rows = {cell: {"accuracy": "50"} for cell in comparison.tuning(rows, "cifar10")} | rows
    count = len(comparison.NETWORK_SETTINGS["resnet18"])
    with pytest.raises(ValueError, match=f"{count} cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    best = tuned("resnet18", rows)
    strengths = comparison.headline_tuning(rows, "cifar10", "resnet18")
    assert {(cell.arm, cell.seed) for cell in strengths} == {("none", 200)}
    assert len(strengths) == 2
    with pytest.raises(ValueError, match="2 cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    rows |= {cell: {"accuracy": f"{50 + n}"} for n, cell in enumerate(strengths)}
    shares = comparison.headline_tuning(rows, "cifar10", "resnet18")[2:]
    assert [(cell.base, cell.settings[:5]) for cell in shares] == [
        ("flip+crop:4+randaugment:2:9", "p=0.2"),
        ("flip+crop:4+randaugment:2:9", "p=0.5"),
    ]
    with pytest.raises(ValueError, match="2 cells"):
        comparison.headline(rows, "cifar10", 5, "resnet18")
    rows |= {cell: {"accuracy": f"{50 - n}"} for n, cell in enumerate(shares)}
    large = comparison.headline(rows, "cifar10", 5, "resnet18")
    tuned_cells = [*strengths, *shares]
    assert {(cell.network, cell.steps) for cell in large + tuned_cells} == {
        (best.network, best.steps)
    }
    assert len(set(large)) == len(large) == 25
    by_base = {cell.base: cell.settings[:5] for cell in large if cell.flow == "b"}
    assert by_base == {"flip+crop:4": "p=0.5", "flip+crop:4+randaugment:2:9": "p=0.2"}
    assert {cell.base for cell in large if cell.flow == "p"} == {"flip+crop:4"}
    assert {cell.split for cell in large} == {"test"}
    tuned("small-swin", rows)
    swin = comparison.headline_tuning(rows, "cifar10", "small-swin")
    assert [cell.base.partition("+randaugment:")[2] for cell in swin] == [
        "1:9",
        "2:9",
        "2:14:128",
        "3:14:128",
    ]
    with pytest.raises(ValueError, match="'vgg'"):
        comparison.network_tuning(rows, "cifar10", "vgg")
    with pytest.raises(ValueError, match="'small-cnn'"):
        comparison.headline_tuning(rows, "cifar10", "small-cnn")
