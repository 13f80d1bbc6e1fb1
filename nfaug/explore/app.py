"""The explorer's page, in Gradio. `nfaug explore` serves it, and a Space of the Hub can."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..augment.pixels import to_pil
from ..augment.settings import MixSettings
from ..data.decode import IMAGE_ENDINGS
from .pictures import (
    MAX_BYTES,
    OpenFlow,
    class_images,
    compare,
    open_flow,
    path_between,
    read_picture,
    walk_axis,
)

# Gradio reads these when it is imported: no usage statistics, and no history of runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

__all__ = ["build_app", "serve"]

T = TypeVar("T")
_DRAWING = threading.Lock()
_SIDE = 168  # pixels up to which pictures are enlarged
_VARIANTS = 6
_SIZES = {"native": None, "64": 64, "128": 128, "224": 224}
_DEFAULT = MixSettings()
_WORDS = {
    "applied": "",
    "gated": "gated",
    "no_partner": "no partner",
    "fell_back": "not finite",
    "inconsistent": "other class",
}
_ABOUT = """# NFA explorer
What normalizing-flow augmentation makes of an image: the same code that runs in training. Pick a
class or drop an image, then move the sliders."""
_CSS = """
.gradio-container { width: 100%; max-width: 1280px !important; margin: 0 auto !important; }
.gradio-container h4 { margin: 6px 0 2px; }
.pictures { border: 0 !important; }
.pictures .grid-wrap { max-height: none !important; min-height: 0 !important; }
.pictures .grid-wrap, .pictures .grid-container { padding: 0 !important; }
.pictures .caption-label {
  left: 0; right: 0; bottom: 0; max-width: none; border: 0; border-radius: 0; padding: 1px 4px;
  font-size: 11px; text-align: center; opacity: 0.85;
}
#upload .icon-wrap { display: none; }
footer { display: none !important; }
@media (max-width: 760px) {
  #main { flex-wrap: wrap; }
  #main > * { flex-basis: 100%; }
  .pictures .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
}
"""


def build_app(
    flows: Sequence[str],
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | None = None,
    any_flow: bool = False,
) -> gr.Blocks:
    """The page as Gradio blocks, which `serve` or a Space launches.

    Args:
        flows: Flows to choose from; the first is shown first and opened now.
        data: Images to show; see `open_flow`, also for `autoencoder` and `image_size`.
        autoencoder: The autoencoder of flows on latents.
        image_size: Side of the images for flows of any size.
        any_flow: Whether a visitor may type another flow: a directory of this machine, or a
            repository, which is downloaded.

    Raises:
        ValueError, OSError: The first flow or the data cannot be opened.
    """
    opened = functools.lru_cache(maxsize=4)(
        functools.partial(open_flow, data=data, autoencoder=autoencoder, image_size=image_size)
    )
    known = tuple(flows)

    def flow_of(name: str) -> OpenFlow:
        if name not in known and not any_flow:
            raise ValueError(f"there is no flow {name!r} here; there are {', '.join(known)}")
        return opened(name)

    first = flow_of(known[0])

    @_reporting
    def choose_flow(name: str, size: str, number: float | None) -> tuple[Any, ...]:
        flow = flow_of(name)
        axes = flow.engine.rank
        drawn = class_images(flow, 0, 2, seed=_seed(number), side=_SIZES[size])
        return (
            gr.Dropdown(choices=[*flow.classes], value=flow.classes[0]),
            gr.Slider(maximum=axes, value=axes),
            gr.Slider(maximum=axes, value=1),
            None,
            drawn[:1],
            drawn[1:],
        )

    @_reporting
    def choose_image(
        name: str, label: str, size: str, upload: str | None, number: float | None
    ) -> tuple[Tensor, Tensor]:
        """The image that is shown, and the other end of the path."""
        flow, side = flow_of(name), _SIZES[size]
        y = _index(flow, label)
        drawn = class_images(flow, y, 2, seed=_seed(number), side=side)
        return (drawn[:1] if upload is None else read_picture(upload, flow, side)), drawn[1:]

    @_reporting
    def show_variants(
        name: str,
        label: str,
        image: Tensor | None,
        strength: float,
        noise: float,
        axes: float,
        alpha: float,
        gate: float,
        gated: bool,
        mix: Any,
        keep: Any,
        number: float | None,
    ) -> Any:
        if image is None:  # controls may change before the page has its first image
            return gr.skip()
        flow = flow_of(name)
        settings = MixSettings(
            strength=strength,
            noise=noise,
            axes=min(int(axes), flow.engine.rank),
            alpha=alpha,
            gate=gate if gated else None,
            mix=mix,
            keep=keep,
        )
        y = _index(flow, label)
        shown = compare(flow, image, y, settings, variants=_VARIANTS, seed=_seed(number))
        names = [f"variant {i}" for i in range(1, _VARIANTS + 1)]
        words = [_WORDS[outcome] for outcome in shown.outcomes]
        captions = [f"{a}: {b}" if b else a for a, b in zip(names, words, strict=True)]
        height, width = flow.size
        at_size = tuple(image.shape[-2:]) == flow.size
        decoded = "encoded and decoded" if at_size else f"decoded, {height} x {width}"
        top = _gallery(
            [shown.image, shown.decoded, *shown.variants[:, None]], ["image", decoded, *captions]
        )
        exact = "bit for bit" if torch.equal(shown.image, shown.decoded) else "with differences"
        first = f"The flow returns the image **{exact}**."
        if not at_size:
            first = f"The flow works at {height} x {width} pixels; the detail of the image is kept."
        side = "inside" if shown.radius <= gate else "outside"
        gate_words = f"{side} the gate" if gated else "and there is no gate"
        told = (
            f"{first} As *{label}* its radius is **{shown.radius:.2f}**, {gate_words}. "
            f"NFA changed {words.count('')} of {_VARIANTS} variants."
        )
        return top, _gallery([*shown.differences[:, None]], names), told

    @_reporting
    def show_path(name: str, image: Tensor | None, other: Tensor | None) -> Any:
        if image is None or other is None:
            return gr.skip()
        flow = flow_of(name)
        latent, pixels = path_between(flow, image, other)
        steps = [f"{100 * i / (len(latent) - 1):.0f}%" for i in range(len(latent))]
        return _gallery([*latent[:, None]], steps), _gallery([*pixels[:, None]], steps)

    @_reporting
    def show_axis(name: str, label: str, image: Tensor | None, axis: float) -> Any:
        if image is None:
            return gr.skip()
        flow = flow_of(name)
        walk = walk_axis(flow, image, _index(flow, label), int(axis) - 1)
        told = (
            f"Axis {int(axis)} of *{label}* has {walk.share:.0%} of the variance along the class's "
            f"axes. This image lies at {walk.own:+.1f} standard deviations."
        )
        return _gallery([*walk.images[:, None]], [f"{p:+.0f}" for p in walk.positions]), told

    with gr.Blocks(title="NFA explorer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_ABOUT)
        image, other = gr.State(), gr.State()
        with gr.Row(elem_id="main"):
            with gr.Column(scale=1, min_width=280):
                flow = gr.Dropdown(
                    [*known], value=known[0], label="Flow", allow_custom_value=any_flow
                )
                label = gr.Dropdown([*first.classes], value=first.classes[0], label="Class")
                upload = gr.File(
                    label="Drop an image of this class",
                    file_types=[*IMAGE_ENDINGS],
                    type="filepath",
                    height=120,
                    elem_id="upload",
                )
                with gr.Row():
                    number = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
                    size = gr.Dropdown([*_SIZES], value="native", label="Image size", min_width=130)
                strength = gr.Slider(0, 3, _DEFAULT.strength, step=0.05, label="Strength")
                noise = gr.Slider(0, 1, 0, step=0.02, label="Noise")
                axes = gr.Slider(1, first.engine.rank, first.engine.rank, step=1, label="Axes")
                alpha = gr.Slider(0.1, 4, _DEFAULT.alpha, step=0.1, label="Alpha")
                gate = gr.Slider(0.25, 3, _DEFAULT.gate, step=0.05, label="Gate")
                gated = gr.Checkbox(True, label="Use the gate")
                with gr.Row():
                    mix = gr.Dropdown(
                        ["axis", "pair"], value=_DEFAULT.mix, label="Weights per", min_width=110
                    )
                    keep = gr.Dropdown(
                        ["all", "consistent"], value=_DEFAULT.keep, label="Keep", min_width=120
                    )
            with gr.Column(scale=3):
                with gr.Tab("Variants"):
                    variants = _rows("What a classifier sees in training", 4)
                    told = gr.Markdown(elem_id="status")
                    differences = _rows("Differences to the image, around mid-grey", _VARIANTS)
                with gr.Tab("Path"):
                    latent = _rows("In the flow's latent space", 7)
                    pixels = _rows("In pixels, for comparison", 7)
                    gr.Markdown("From the image to another of its class, which the seed picks.")
                with gr.Tab("Axis"):
                    axis = gr.Slider(1, first.engine.rank, 1, step=1, label="Axis of the class")
                    walk = _rows("Standard deviations along the axis", 7)
                    position = gr.Markdown()

        chosen = [flow, label, size, upload, number]
        controls: list[Any] = [strength, noise, axes, alpha, gate, gated, mix, keep, number]
        last: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
        renewed = [label, axes, axis, upload, image, other]
        flow.change(choose_flow, [flow, size, number], renewed, api_name="flow")
        events = [page.load, label.change, size.change, upload.upload, upload.clear, number.change]
        gr.on(events, choose_image, chosen, [image, other], api_name="image", **last)
        gr.on(
            # An uploaded image stays the same when its class changes.
            [image.change, label.change, *(control.change for control in controls[:-1])],
            show_variants,
            [flow, label, image, *controls],
            [variants, differences, told],
            api_name="variants",
            **last,
        )
        image.change(show_path, [flow, image, other], [latent, pixels], api_name="path", **last)
        gr.on(
            [image.change, label.change, axis.change],
            show_axis,
            [flow, label, image, axis],
            [walk, position],
            api_name="axis",
            **last,
        )
    return page


def serve(
    page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, **options: Any
) -> str:
    """Serve the page until the process ends, and return its address.

    Nothing is sent elsewhere: no usage statistics, no public link, no fonts of other servers.

    Args:
        page: The page.
        host: Address to listen on; the default is reached from this machine alone.
        port: Port; None for the first free one from 7860.
        options: More arguments of Gradio's `launch`.
    """
    theme = gr.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    _, local, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        max_file_size=MAX_BYTES,
        theme=theme,
        css=_CSS,
        **options,
    )
    return str(local)


def _reporting(function: Callable[..., T]) -> Callable[..., T]:
    """Show the reason of an error that a visitor can cause as a message on the page.

    One function runs at a time, because torch uses all cores for each.
    """

    @functools.wraps(function)
    def reported(*values: Any) -> T:
        try:
            with _DRAWING:
                return function(*values)
        except (ValueError, OSError) as error:
            raise gr.Error(
                str(error), duration=None, title="This does not work", print_exception=False
            ) from error

    return reported


def _seed(number: float | None) -> int:
    """The seed of the field, which may be empty."""
    return int(number or 0) % 2**31


def _index(flow: OpenFlow, label: str) -> int:
    if label not in flow.classes:
        raise ValueError(f"the flow has no class {label!r}; it has {', '.join(flow.classes[:20])}")
    return flow.classes.index(label)


def _rows(title: str, columns: int) -> gr.Gallery:
    gr.Markdown(f"#### {title}")
    return gr.Gallery(
        label=title,
        show_label=False,
        columns=columns,
        object_fit="contain",
        height="auto",
        format="png",
        interactive=False,
        elem_classes="pictures",
    )


def _gallery(images: Sequence[Tensor], captions: Sequence[str]) -> list[tuple[Image.Image, str]]:
    return [(_picture(image[0]), text) for image, text in zip(images, captions, strict=True)]


def _picture(image: Tensor) -> Image.Image:
    """A PIL image of uint8 (C, H, W), enlarged by a whole factor."""
    pixels = image if image.shape[0] in (1, 3) else image[:1]
    picture = to_pil(pixels.permute(1, 2, 0).contiguous().numpy())
    factor = max(1, round(_SIDE / max(picture.size)))
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
