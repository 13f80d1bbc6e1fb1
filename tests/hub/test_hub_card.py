"""The model card is true and complete, and escapes all text of a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tools.nfa import checkpoint as parts

from nfaug.checkpoint.checkpoint import CheckpointConfig
from nfaug.classes.pca import ClasswisePCA
from nfaug.flows.autoencoder import AutoencoderConfig
from nfaug.flows.config import FlowConfig
from nfaug.flows.mef_config import MefConfig
from nfaug.hub.card import escape, make_card, set_privacy

CONFIG = CheckpointConfig(
    FlowConfig(image_size=(8, 8), backbone=MefConfig(steps=(1, 1), blocks=(1, 1), width=(8, 8))),
    classes=("cat", "dog"),
    training={"data": "pets", "images": 12000, "lr": 0.01},
    metrics={"bits_per_dim": 3.2512, "nf_acc": 0.75, "exact": 1.0, "on": "24 held-out images"},
)


class Message(dict[str, list[str]]):
    """The metadata of a package."""

    get_all = dict.get


def card(**changes: Any) -> str:
    names = {"license", "about_data", "picture"} & changes.keys()
    options = {name: changes.pop(name) for name in names}
    pca = changes.pop("pca", parts().pca)
    return make_card(replace(CONFIG, **changes), pca, "owner/flow", **options)


def test_it_says_what_matters() -> None:
    text = card(picture="images")
    for words in (
        "share of images that the round trip reproduces exactly | 1",
        'nfa = nfaug.NFAugment.from_pretrained("owner/flow", p=0.5)',
        "nfa.check_classes(dataset)",
        "nfaug fit --checkpoint owner/flow",
        "![Images, decoded, and variants of them](samples.png)",
        "Made with nfaug, by the method of [Enescu & Sahbi, BMVC 2024](https://hal.science/",
        "| training&#58; images | 12,000 |",
        "| 1 | dog |",
        f"with {CONFIG.flow.parameter_count:,} parameters",
        "no license is stated",
        "## Limits",
    ):
        assert words in text, words
    places = [text.index(part) for part in ("samples.png", "## Figures", "## Use", "## Training")]
    assert places == sorted(places), "what convinces comes first"
    assert "samples.png" not in card()
    assert "\n\n\n" not in text
    bare = card(pca=None, classes=(), metrics={})
    assert "NFAugment" not in bare
    assert "No figures were measured" in bare
    many = card(classes=tuple(map(str, range(1000))))
    assert "1,000 in all" in many
    assert many.count("\n") < 400


def test_it_links_to_the_project_once_that_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {"Project-URL": ["Source, https://x.example/nfaug", "Paper, https://x.example/p"]}
    monkeypatch.setattr("nfaug.hub.card.metadata", lambda _: Message(links))
    text = card()
    assert "[nfaug](https://x.example/nfaug)" in text
    assert 'pip install "nfaug @ git+https://x.example/nfaug"' in text


def test_metadata_is_what_the_hub_reads() -> None:
    data = ModelCard(card(license="mit")).data.to_dict()
    assert (data["library_name"], data["license"]) == ("nfaug", "mit")
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert "nfaug" in data["tags"]
    (index,) = data["model-index"]
    assert {result["dataset"]["name"] for result in index["results"]} == {
        "pets, measured on 24 held-out images"
    }
    metrics = [metric for result in index["results"] for metric in result["metrics"]]
    found = {metric["type"]: metric["value"] for metric in metrics}
    assert found == {"accuracy": 0.75, "bits_per_dim": 3.2512}


def test_a_fitted_flow_says_what_it_was_trained_on_and_fitted_to() -> None:
    gaussians = {"fitted": True, "images": 500, "flow": "someone/faces", "data": "pets"}
    text = card(gaussians=gaussians, training={"data": "torch/faces"})
    assert f"trained on {escape('torch/faces')}" in text
    assert "fitted to 500 images of pets" in text
    assert f"the flow {escape('someone/faces')}" in text
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "someone/faces"
    pinned = card(gaussians={**gaussians, "flow": "someone/faces@v1"}, training={})
    assert ModelCard(pinned).data.to_dict()["base_model"] == "someone/faces"
    local = card(gaussians={**gaussians, "flow": "my-flow"}, training={})
    assert "base_model" not in ModelCard(local).data.to_dict()


def test_a_flow_on_latents_names_its_autoencoder() -> None:
    autoencoder = AutoencoderConfig(
        "hub", "someone/vae", "0" * 64, 3, (256, 256), (0.0,) * 4, (1.0,) * 4, 1 / 64
    )
    text = card(autoencoder=autoencoder)
    assert "images of 3 x 256 x 256" in text
    assert f"the latents of the autoencoder {escape('someone/vae')}, on the Hub" in text
    assert "AUTOENCODER" not in text
    own = card(autoencoder=replace(autoencoder, kind="file", name="vae.safetensors"))
    assert 'from_pretrained("owner/flow", p=0.5, autoencoder="AUTOENCODER")' in own
    assert "nfaug fit --checkpoint owner/flow --autoencoder AUTOENCODER --data" in own
    assert "0" * 64 in text


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://evil.example/p.png) [click](javascript:alert(1))",
    "a | b | `code` **bold** _it_ ~~no~~",
    "line\n# Heading\n---\nlicense: mit\n---\n",
    "www.evil.example me@evil.example",
    "\u202egnp.elif\u2066 \x1b[31mred",
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
    made = card(
        classes=(text, "dog"),
        training={text: text, "data": text},
        metrics={text: text, "nf_acc": text, "bits_per_dim": 1.0, "on": text},
        preprocessing={"resize": {text: [text]}},
        gaussians={"fitted": True, "images": text, "flow": text},
        about_data=text,
    )
    plain = card(gaussians={"fitted": True, "images": 1, "flow": "x"})
    assert [line for line in made.splitlines() if line.startswith("#")] == [
        line for line in plain.splitlines() if line.startswith("#")
    ]
    assert f"| 0 | {shown} |" in made.splitlines()
    assert made.count("<!--") == 2
    assert made.count("](") == plain.count("](") == 1, "the paper"
    assert set(ModelCard(made).data.to_dict()) == {
        *("library_name", "pipeline_tag", "tags", "model-index")
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, "3", None, True, [1], 10**400])
def test_figures_that_are_no_figures_are_no_results(value: object) -> None:
    made = card(metrics={"nf_acc": value})
    assert "model-index" not in yaml.safe_load(made.split("---")[1])


def test_shares_have_their_interval() -> None:
    made = card(metrics={"images": 2000, "nf_acc": 0.431, "bits_per_dim": 5.1})
    assert "| NF-Acc, top 1 | 43\\.1\\% \\(95\\% interval 40\\.9\\% to 45\\.3\\%\\) |" in made
    assert "They compare flows on the same images" in made
    assert "They compare flows" not in card(metrics={"nf_acc": 0.431})
    assert "| NF-Acc, top 1 | 0.431 |" in card(metrics={"nf_acc": 0.431})
    for share, count in ((0.0, 10), (1.0, 10), (2.0, 10), (0.5, 0)):
        assert "NF-Acc, top 1" in card(metrics={"images": count, "nf_acc": share})


def test_terms_are_never_cut() -> None:
    license, terms = "my own license " * 20 + "end", "You may use it, if you ask first. " * 40
    made = card(license=license, about_data=terms + "It ends here")
    assert f"This checkpoint: {license}." in made
    assert "ask first\\. It ends here\n" in made
    assert made.count("if you ask first") == 40


def test_privacy_is_said_plainly() -> None:
    whole = card(picture="images")
    assert "**holds a partner memory**: the PCA coefficients of 120 training images" in whole
    assert "`samples.png` shows some of the original images" in whole
    assert "`samples.png` shows images that the flow drew" in card(picture="samples")
    pca = parts().pca
    assert pca is not None
    alone = card(pca=None, classes=())
    assert "It has no partner memory and no axes of classes." in alone
    assert "trained with 2 classes and not fitted to any" in card(pca=None)
    assert "rebuilt" not in alone
    tensors = pca.tensors()
    for name in ("memory", "memory_labels"):
        del tensors[name]
    few = ClasswisePCA(tensors)
    few.counts = few.counts.clamp(max=3)
    assert "as few as 3 images" in card(pca=few)
    assert "unusual in their class can be **nearly rebuilt from them**" in card(pca=few)


def test_the_privacy_statement_of_an_edited_card_is_kept_true() -> None:
    one, other = card(), card(pca=None)
    edited = one.replace("## Limits", "## My words\n\n\\1 \\g<0>\n\n## Limits")
    changed = set_privacy(edited, other)
    assert "holds a partner memory" not in changed
    assert set_privacy(changed, one) == edited
    assert set_privacy("# None\n", other) == "# None\n"
