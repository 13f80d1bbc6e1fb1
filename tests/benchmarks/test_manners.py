"""`NFAugment` takes what v2.MixUp takes, and refuses what it refuses."""

from __future__ import annotations

from benchmarks.peers.torchvision import BY_DESIGN, run


def test_what_disagrees_with_mixup_is_by_design() -> None:
    outcomes = run()
    beginnings = {words for listed in BY_DESIGN.values() for words in listed}
    disagreeing = [*outcomes.refused, *outcomes.other]
    unexpected = [name for name in disagreeing if not name.startswith(tuple(beginnings))]
    assert unexpected == []
    for words in beginnings:
        assert any(name.startswith(words) for name in disagreeing), words
    assert len(outcomes.passed) > 100
