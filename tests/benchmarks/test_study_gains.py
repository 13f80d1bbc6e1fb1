"""Gains of the study and their intervals."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch
from study_tools import CELL, ROW, outcomes

from benchmarks.study import gains, pictures
from nfaug.training.evaluation.intervals import interval


def test_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert not found.clear
    assert interval([3.0, 3.1, 3.2]).clear
    alone = interval([5.0])
    assert alone.half == math.inf
    assert (str(alone), alone.shown("+"), str(found)) == ("5.0", "+5.0", "2.0 ± 2.5")
    with pytest.raises(ValueError, match="values"):
        interval([])


def test_half_width_covers_the_mean_in_95_of_100_studies() -> None:
    draws = torch.randn(600, 10, generator=torch.Generator().manual_seed(0))
    found = [interval(row) for row in draws.tolist()]
    missed = sum(abs(each.mean) > each.half for each in found) / len(found)
    assert 0.03 < missed < 0.075


def test_settings_with_most_seeds_are_preferred() -> None:
    first, *others = (replace(CELL, settings=f"p=0.{n}") for n in (2, 5, 8))
    found = {first: outcomes(80, 81)} | {each: outcomes(90) for each in others}
    assert gains.preferred(found) == [first]
    del found[first]
    found[others[1]] = outcomes(91)
    assert gains.preferred(found) == [others[1]]
    held_out = {replace(others[0], split="tuning"): outcomes(50)}
    held_out[replace(others[1], split="tuning")] = outcomes(49)
    assert gains.preferred(found, every=held_out | found) == [others[0]]
    held_out[replace(others[1], split="tuning")] = outcomes(49, 48)
    assert gains.preferred(found, every=held_out | found) == [others[1]], "other held-out seeds"


def test_a_base_is_the_best_on_held_out_images() -> None:
    """Also where another one is better on test images, and the same for all arms on top of it."""
    alone = replace(CELL, arm="none", flow="-", base="flip+crop+randaugment:1:9", settings="")
    other = replace(alone, base="flip+crop+randaugment:2:9")
    found = {alone: outcomes(70), other: outcomes(75)}
    found |= {replace(each, arm="nfa", flow="p"): outcomes(80) for each in (alone, other)}
    held_out = {replace(alone, split="tuning"): outcomes(60)}
    held_out[replace(other, split="tuning")] = outcomes(59)
    taken = gains.preferred(found, pictures.place_of, held_out | found)
    assert {key.base for key in taken} == {alone.base}
    assert len(taken) == 2
    assert gains.preferred(found, pictures.place_of) != taken, "held-out images made the choice"


def test_a_gain_has_an_interval_over_images_too() -> None:
    right = torch.rand(2, 3, 900) < torch.tensor([0.8, 0.7])[:, None, None]  # arms, seeds, images
    rows = [
        {"tested": "900", "right": gains.packed(each), "accuracy": f"{100 * each.float().mean()}"}
        for each in right.flatten(0, 1)
    ]
    assert (torch.from_numpy(gains.unpacked(rows[0])) == right[0, 0]).all()
    by_seed = [gains.Outcome(float(row["accuracy"]), gains.unpacked(row)) for row in rows]
    gain = gains.gains(dict(enumerate(by_seed[:3])), dict(enumerate(by_seed[3:])))
    assert gain is not None
    table = right[0].double() - right[1].double()
    each = table.mean(0)
    rest = table - each - table.mean(1, keepdim=True) + table.mean()
    unexplained = float((rest**2).sum()) / (2 * 899)
    variance = max(0.0, float(each.var()) - unexplained / 3) / 900
    assert math.isclose(gain.images, 196 * variance**0.5, rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(gain.mean, 100 * float(each.mean()), abs_tol=1e-4)
    alone = gains.gains({0: by_seed[0]}, {0: by_seed[3]})
    assert alone is not None
    assert math.isclose(alone.images, 196 * float(table[0].std()) / 30, rel_tol=1e-9)
    assert gains.Gain(1.0, 0.8, 3, 0.6).shown("+") == "+1.0 ± 0.8 ± 0.6"
    assert math.isclose(gains.Gain(1.0, 0.8, 3, 0.6).total, 1.0)
    assert gains.Gain(1.0, math.inf, 1, 0.6).shown("+") == "+1.0 ± ? ± 0.6"
    assert gains.Gain(1.0, 0.8, 5, 0.7).clear is False
    assert gains.Gain(1.0, 0.4, 5, 0.7).clear is True
    assert gains.Gain(1.0, 0.0, 4, 0.0).clear is False
    assert gains.Gain(1.0, 0.0, 3).clear is True
    assert gains.Gain(1.0, 0.0, 2).clear is False


def test_images_and_seeds_are_not_counted_twice() -> None:
    """Neither seeds nor images have effects of their own: the seeds' interval holds everything."""
    seeds, images, draws = 10, 400, 300
    generator = torch.Generator().manual_seed(0)
    right = torch.rand(draws, 2, seeds, images, generator=generator) < 0.5
    beyond, within = [], []
    for one, other in right.numpy():
        arms = (
            {seed: gains.Outcome(100 * float(each.mean()), each) for seed, each in enumerate(arm)}
            for arm in (one, other)
        )
        gain = gains.gains(*arms)
        assert gain is not None
        beyond.append(gain.images)
        within.append(abs(gain.mean) <= gain.total)
    assert statistics.median(beyond) < 0.5
    assert 0.93 < statistics.mean(within) < 0.99


def test_versions_of_a_flow_are_not_averaged() -> None:
    bare, combined = (replace(CELL, flow="b", base=base) for base in ("none", "cutmix:1"))
    for second in (replace(bare, seed=1), combined):
        rows = {bare: ROW | {"flow_sha": "0a"}, second: ROW | {"flow_sha": "1a"}}
        with pytest.raises(ValueError, match="0a, 1a"):
            gains.groups(rows)
    own = {replace(bare, flow="l", seed=n): ROW | {"flow_sha": f"{n}a"} for n in range(2)}
    assert len(gains.groups(own)) == 1, "a flow for each seed"


def test_gains_are_differences_within_seeds() -> None:
    gain = gains.gains(outcomes(81, 92, 70), outcomes(80, 91))
    assert gain is not None
    assert (gain.mean, gain.half, gain.seeds) == (1.0, 0.0, 2)
    assert gains.gains({0: gains.Outcome(1.0)}, {1: gains.Outcome(1.0)}) is None
