"""`capture=True` and `augmented_ahead` change no result."""

from __future__ import annotations

import copy
import pickle

import torch
from nfa_tools import batch_of, checkpoint

from nfaug.augment.capture import _ROWS, Inputs, padded
from nfaug.augment.prefetch import augmented_ahead
from nfaug.augment.transform import NFAugment


def test_on_the_cpu_capture_is_ignored() -> None:
    images, labels = batch_of(20)
    plain, captured = NFAugment(checkpoint(), p=0.6), NFAugment(checkpoint(), p=0.6, capture=True)
    for _ in range(3):
        params = plain.make_params(labels)
        expected = plain(images, labels, params=params)[0]
        assert torch.equal(captured(images, labels, params=params)[0], expected)
    assert captured.stats() == plain.stats()
    again = pickle.loads(pickle.dumps(captured))
    assert torch.equal(copy.deepcopy(again)(images, labels, params=params)[0], expected)


def test_padding_changes_no_image() -> None:
    """Added rows are repeats that are not augmented and are nobody's partner."""
    images, labels = batch_of(19)
    nfa = NFAugment(checkpoint(), p=0.6, partners="both", noise=0.1)
    params = nfa.make_params(labels)
    taken = params.index
    assert len(taken) == 12
    usable = torch.ones(12, dtype=torch.bool)
    draws = tuple(getattr(params, name) for name in _ROWS)
    inputs = Inputs(images[taken], labels[taken], usable, draws)
    assert padded(inputs, 6) is inputs
    more = padded(inputs)
    assert {len(x) for x in more.tensors()} == {16}
    assert not more.usable[12:].any()
    fields = dict(zip(_ROWS, more.draws, strict=True))
    assert not fields["chosen"][12:].any()
    engine, own = nfa.engine, (nfa._normalization, nfa.settings)
    changed = type(params)(batch=16, memory=params.memory, **fields)
    few, many = (
        engine.mix(engine.encode(x.images, x.labels, *own), x.usable, drawn, *own)
        for x, drawn in ((inputs, params), (more, changed))
    )
    assert torch.equal(many[0][:12], few[0])
    assert torch.equal(many[0][12:], images[taken[:1]].expand(4, -1, -1, -1))
    for name, mask in few[1].items():
        assert torch.equal(many[1][name][:12], mask)
        assert not many[1][name][12:].any()


def test_batches_ahead_are_those_of_a_plain_loop() -> None:
    loader = [batch_of(10, seed=seed) for seed in range(3)]
    torch.manual_seed(0)
    nfa = NFAugment(checkpoint())
    expected = [nfa(images, labels)[0] for images, labels in loader]
    torch.manual_seed(0)
    found = [images for images, _ in augmented_ahead(loader, nfa, "cpu")]
    assert len(found) == 3
    assert all(map(torch.equal, found, expected))
