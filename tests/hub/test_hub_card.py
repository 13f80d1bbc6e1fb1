"""The model card is true and complete, and escapes all text of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from nfaug.checkpoint.config import CheckpointConfig
from nfaug.flows.autoencoder import AutoencoderConfig
from nfaug.flows.flow import FlowConfig
from nfaug.hub.card import Facts, escape, make_card, privacy_block, set_privacy, stated

FLOW = FlowConfig(image_size=(8, 8), steps=(1, 1), blocks=(1, 1), width=(8, 8))
METRICS = {"bits_per_dim": 3.2512, "nf_acc": 0.75, "exact": 1.0, "on": "24 held-out images"}


def facts(**changes: Any) -> Facts:
    config = CheckpointConfig(
        FLOW,
        class_names=("cat", "dog"),
        training={"data": "pets", "images": 12000, "lr": 0.01},
        metrics=METRICS,
    )
    config = replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
    rest = {k: v for k, v in changes.items() if not hasattr(config, k)}
    base = Facts(config, axes=64, share=0.5, partners=12000, fewest=600, picture=True)
    return replace(base, **rest)


def test_a_flow_on_latents_says_so() -> None:
    """The card names the autoencoder that the flow needs."""
    autoencoder = AutoencoderConfig(
        "hub", "someone/vae", "0" * 64, 3, (256, 256), (0.0,) * 4, (1.0,) * 4, 1 / 64
    )
    text = str(make_card(facts(autoencoder=autoencoder), "someone/flow"))
    assert "images of 3 x 256 x 256" in text
    assert f"the latents of the autoencoder {escape('someone/vae')}, on the Hub" in text
    assert "0" * 64 in text
    assert "nfaug[vae]" in text


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "a | b | c",
    "`code`",
    "**bold** _it_ ~~no~~",
    "line\n# Heading\n---\nlicense: mit\n---\n",
    "http://evil.example www.evil.example me@evil.example",
    "\u202egnp.elif\u2066",
    "\x1b[31mred",
    "{{ 7 * 7 }} {% raw %} $x$",
    "<!-- /nfaug:privacy -->",
    "\\",
    "  ",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_a_checkpoint_cannot_format_or_link(text: str) -> None:
    shown = escape(text)
    assert shown.isprintable()
    assert len(shown) < 1000
    assert not set("<>`|\"'@:/") & set(shown)
    for i, char in enumerate(shown):
        if char in "[]()*_#~!{}$.":
            in_entity = char == "#" and shown[i - 1] == "&"
            assert in_entity or shown[i - 1] == "\\", shown
    card = make_card(
        facts(
            class_names=(text, "dog"),
            training={text: text, "data": text},
            metrics={text: text, "nf_acc": text, "bits_per_dim": 1.0, "on": text},
            preprocessing={"resize": {text: [text]}},
        ),
        "owner/flow",
        data=text,
    )
    plain = make_card(facts(), "owner/flow")
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        line for line in plain.splitlines() if line.startswith("#")
    ]
    assert f"| 0 | {shown} |" in card.splitlines()
    assert card.count("<!--") == 2
    assert card.count("](") == plain.count("](") == 1
    assert set(ModelCard(card).data.to_dict()) == {
        "library_name",
        "pipeline_tag",
        "tags",
        "model-index",
    }


@pytest.mark.parametrize("name", ["great_white_shark", "n01440764", "Łabędź", "犬", "T-shirt, top"])
def test_ordinary_names_stay_readable(name: str) -> None:
    assert escape(name).replace("\\", "") == name


def test_metadata_is_what_the_hub_reads() -> None:
    card = ModelCard(make_card(facts(), "owner/flow", license="mit"))
    (accuracy, bits) = card.data.eval_results or []
    assert (accuracy.metric_name, accuracy.metric_value) == ("NF-Acc", 0.75)
    assert (bits.metric_name, bits.metric_value) == ("bits/dim", 3.2512)
    data = card.data.to_dict()
    assert (data["library_name"], data["license"]) == ("nfaug", "mit")
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert "nfaug" in data["tags"]
    (index,) = data["model-index"]
    assert index["name"] == "flow"
    assert {result["dataset"]["name"] for result in index["results"]} == {"pets"}
    metrics = [metric for result in index["results"] for metric in result["metrics"]]
    found = {metric["type"]: metric["value"] for metric in metrics}
    assert found == {"accuracy": 0.75, "bits_per_dim": 3.2512}


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "3", None, True, [1], {"a": 1}, 10**400],
    ids=lambda v: repr(v)[:9],
)
def test_figures_that_are_no_figures_are_no_results(value: object) -> None:
    card = make_card(facts(metrics={"nf_acc": value}), "owner/flow")
    assert "model-index" not in yaml.safe_load(card.split("---")[1])


def test_it_says_what_matters() -> None:
    card = make_card(facts(), "owner/flow")
    for words in (
        "share of images that the round trip reproduces exactly | 1",
        'nfa = nfaug.NFAugment.from_pretrained("owner/flow", p=0.5)',
        "images, labels = nfa(images, labels)",
        "nfaug fit --flow owner/flow",
        "![Originals, reconstructions and variants](samples.png)",
        "| training&#58; images | 12,000 |",
        "| 1 | dog |",
        f"with {FLOW.parameter_count:,} parameters",
        "import nfaug",
        "no license is stated",
        "## Limits",
    ):
        assert words in card, words
    assert "samples.png" not in make_card(facts(picture=False), "owner/flow")
    large = facts(flow=FlowConfig())
    assert f"{FlowConfig().parameter_count / 1e6:.1f} million" in make_card(large, "owner/flow")
    bare = make_card(facts(axes=0, share=0.0, partners=0, class_names=(), metrics={}), "o/f")
    assert "NFAugment" not in bare
    assert "nfaug fit --flow o/f" in bare
    assert "No figures were measured" in bare
    many = make_card(facts(class_names=tuple(map(str, range(1000)))), "o/f")
    assert "1000 in all" in many
    assert many.count("\n") < 400


def test_a_fitted_flow_says_what_it_was_trained_on_and_fitted_to() -> None:
    gaussians = {"fitted": True, "images": 500, "flow": "someone/faces", "data": "hfds/me/pets"}
    fitted = facts(gaussians=gaussians, training={"data": "hfds/them/faces"})
    card = make_card(fitted, "owner/flow")
    assert f"trained on {escape('hfds/them/faces')}" in card
    assert f"fitted to 500 images of {escape('hfds/me/pets')}" in card
    assert f"the flow {escape('someone/faces')}" in card
    assert "pip install" in card
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == "someone/faces"
    assert data["datasets"] == ["them/faces", "me/pets"]
    local = facts(gaussians={**gaussians, "flow": "my-flow", "data": "pets"}, training={})
    assert not {"base_model", "datasets"} & set(ModelCard(make_card(local, "o/f")).data.to_dict())


def test_terms_are_never_cut() -> None:
    license, terms = "my own license " * 20 + "end", "You may use it, if you ask first. " * 40
    card = make_card(facts(), "owner/flow", license=license, data=terms + "It ends here")
    assert f"The flow: {license}." in card
    assert "ask first\\. It ends here\n" in card
    assert card.count("if you ask first") == 40
    assert len(escape(terms)) < 200, "texts of a checkpoint are cut"


def test_privacy_is_said_plainly() -> None:
    whole = privacy_block(facts())
    assert "holds a partner memory" in whole
    assert "12,000 training images" in whole
    assert "nearly reproduce those images" in whole
    assert "as many axes as images of a class" in whole
    assert "`samples.png` shows some of the original images" in whole
    shared = privacy_block(facts(partners=0, share=0.25, axes=16, picture=False))
    assert "The partner memory was left out." in shared
    assert "at most 25% of its images: too few to span them" in shared
    assert "nearly" not in shared
    assert "samples.png" not in shared
    assert "as few as 3 images" in privacy_block(facts(fewest=3))


def test_the_privacy_statement_of_an_edited_card_is_kept_true() -> None:
    block = privacy_block(facts())
    card = make_card(facts(), "o/f").replace("## Limits", "## My words\n\n\\1 \\g<0>\n\n## Limits")
    other = privacy_block(facts(partners=0, share=0.1))
    changed = set_privacy(card, other)
    assert stated(card) == block
    assert stated(changed) == other
    assert changed.replace(other, block) == card
    assert set_privacy("# None\n", other) == "# None\n"
    assert stated("# None\n") is None
