"""nfaug info --plan: bytes and FLOPs follow from the numbers, hours from a measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nfaug
from nfaug.bank import bank_bytes
from nfaug.bank.plan import plan_cost
from nfaug.cli import main
from nfaug.flows.codec import PixelCodec


def test_the_plan(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["info", str(tiny_path), "--plan", "--images", "1000", "--variants", "3", "--size"]
    words += ["20", "--processes", "4", "--seconds", "0.1", "--device", "cpu", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    bank, online, measured = told["bank"], told["online"], told["measured"]
    assert bank["bytes"] == bank_bytes(1000, 3, (1, 20, 20)) == 1_200_000
    assert bank["bytes_residual"] == 1000 * 3 * (8 * 8 + 2)
    flop = nfaug.load(tiny_path).flow.config.flop
    assert (bank["flop"], online["flop_per_epoch"]) == (4000 * flop, 1000 * flop)
    encode, decode = (1 / measured[f"{x}_images_per_second"] for x in ("encode", "decode"))
    hours = 1000 * (encode + 3 * decode) / 3600
    assert bank["hours_of_one_process"] == pytest.approx(hours)
    assert bank["hours"] == pytest.approx(hours / 4)
    assert online["hours_per_epoch"] == pytest.approx(500 * (encode + decode) / 3600 / 4)
    assert measured["device"] == "cpu"


def test_invalid_numbers(tiny_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_path), "--plan"]) == 2
    assert "--images" in capsys.readouterr().err
    assert main(["info", str(tiny_path), "--plan", "--images=10", "--size=0"]) == 2
    assert "0" in capsys.readouterr().err


def test_the_unmixed_latent_costs_a_decode_on_latents(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the codec is not exact, an image is decoded once more."""
    monkeypatch.setattr(PixelCodec, "exact", False)
    checkpoint = nfaug.load(tiny_path)
    flop = checkpoint.flow.config.flop
    told = plan_cost(checkpoint, images=1000, variants=3, p=0.5, seconds=0.1)
    assert told["bank"]["flop"] == 5000 * flop
    assert told["online"]["flop_per_epoch"] == 1500 * flop
    encode, decode = (1 / told["measured"][f"{x}_images_per_second"] for x in ("encode", "decode"))
    assert told["bank"]["hours"] == pytest.approx(1000 * (encode + 4 * decode) / 3600)
    hours = 500 * (encode + 2 * decode) / 3600
    assert told["online"]["hours_per_epoch"] == pytest.approx(hours)
