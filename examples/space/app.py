"""A page that shows what NFA makes of an image: on this machine, or as a Space of the Hub.

    pip install -e ".[examples]"
    python examples/space/app.py builtin:pixels my-nfa --data my-images

It prints its address. Pick a class or drop an image, then move the sliders: variants are what a
classifier sees in training. With --data, a checkpoint of other classes is first fitted to up to 100
images of each. Without, the images are samples of the checkpoint, which needs axes and class
Gaussians (nfaug fit --gaussians data). Visitors choose among these checkpoints alone; those of a
Space are FLOWS.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Gradio reads these when it is imported: no usage statistics, and no history of runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"

import gradio as gr
import torch
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

import nfaug

FLOWS = ["builtin:fashion-mnist", "builtin:rgb32"]
VARIANTS = 6
PARTNERS = 8  # images to mix with, where the checkpoint has no memory
SIDE = 168  # pixels up to which pictures are enlarged
UPLOAD = 8 * 2**20  # bytes of a file


class OpenFlow(NamedTuple):
    """A checkpoint with axes, its augmentation, and images of its classes; None for samples."""

    checkpoint: nfaug.Checkpoint
    nfa: nfaug.NFAugment
    images: Any


def open_flow(source: str, data: str | None, image_size: int) -> OpenFlow:
    """Load a checkpoint; fit it if its classes are not those of the data."""
    checkpoint = nfaug.load(source)
    images = None
    if data is not None:
        channels = checkpoint.flow.codec.channels
        images = nfaug.open_dataset(data, image_size=image_size, channels=channels)
        if checkpoint.pca is None or checkpoint.config.classes != tuple(images.classes):
            checkpoint = nfaug.fit(checkpoint, images, per_class=100, device="cpu")
    elif checkpoint.pca is None or checkpoint.gaussians is None:
        raise ValueError(f"{source} has no axes or no class Gaussians: pass --data, or fit it")
    return OpenFlow(checkpoint, nfaug.NFAugment(checkpoint), images)


def class_images(flow: OpenFlow, label: int, seed: int) -> Tensor:
    """Some images of a class, uint8 (B, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    if flow.images is None:
        return flow.checkpoint.sample(1 + PARTNERS, label, generator=generator)
    rows = (flow.images.targets == label).nonzero().flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[: 1 + PARTNERS]]
    return torch.stack([flow.images[row][0] for row in rows.tolist()])


def read_upload(file: str, like: Tensor) -> Tensor:
    """An uploaded image, which Gradio puts into a folder of its own, as uint8 (C, H, W)."""
    folder = Path(file).parent
    size = (like.shape[1], like.shape[2])
    return nfaug.open_dataset(
        folder, labels=False, image_size=size, channels=len(like), progress=False
    )[0][0]


def show_variants(
    flow: OpenFlow,
    label: str,
    upload: str | None,
    seed: float | None,
    strength: float,
    noise: float,
    alpha: float,
    mix: Any,
    gate: float,
) -> tuple[Any, ...]:
    """The image and its variants, what they change, and a line about them."""
    index = flow.checkpoint.config.classes.index(label)
    number = int(seed or 0) % 2**20  # the field may be empty
    batch = class_images(flow, index, number)
    if upload is not None:
        batch[0] = read_upload(upload, batch[0])
    config = nfaug.MixConfig(
        p=1.0, strength=strength, noise=noise, alpha=alpha, mix=mix, gate=gate or None
    )
    if not config.needs_batch(has_memory=flow.checkpoint.pca.has_memory):
        batch = batch[:1]
    flow.nfa.config = config
    draws = [torch.Generator().manual_seed(VARIANTS * number + i) for i in range(VARIANTS)]
    labels = torch.full((len(batch),), index)
    image = batch[0]
    shown = [(picture(image), "image")]
    changes = []
    count = 0
    for i, variants in enumerate(flow.nfa.variants(batch, labels, draws), 1):
        caption = f"variant {i}"
        if torch.equal(variants[0], image):
            caption += ": unchanged"
        else:
            count += 1
        shown.append((picture(variants[0]), caption))
        difference = (variants[0].float() - image + 128).clamp(0, 255).to(torch.uint8)
        changes.append((picture(difference), f"change {i}"))
    told = f"{count} of {VARIANTS} variants differ from the image."
    if count < VARIANTS:
        told += " The others are too far from the class for this gate, or have no partner."
    return shown, changes, told


def picture(image: Tensor) -> Image.Image:
    """A picture of uint8 (C, H, W), enlarged by a whole factor."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    factor = max(1, round(SIDE / max(image.shape[1:])))
    return Image.fromarray(pixels).resize(
        (image.shape[2] * factor, image.shape[1] * factor), Image.Resampling.NEAREST
    )


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show errors that a visitor can cause as text, with all marks of HTML and Markdown escaped."""

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except (ValueError, OSError) as error:
            text = str(error)
            plain = [c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text]
            raise gr.Error("".join(plain), duration=None, print_exception=False) from error

    return call


def build_page(sources: list[str], data: str | None = None, image_size: int = 64) -> gr.Blocks:
    """The page; the first checkpoint is opened now."""
    named = {}  # what visitors see has no folders of this machine
    for number, source in enumerate(sources, 1):
        name = Path(source).name if Path(source).is_dir() else source
        named[f"{number}. {name}"] = source
    first = next(iter(named))

    @functools.lru_cache(maxsize=4)
    def opened(name: str) -> OpenFlow:
        return open_flow(named[name], data, image_size)

    classes = list(opened(first).checkpoint.config.classes)
    with gr.Blocks(title="NFA", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# What normalizing-flow augmentation makes of an image")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                flow = gr.Dropdown(list(named), value=first, label="Checkpoint")
                label = gr.Dropdown(classes, value=classes[0], label="Class")
                upload = gr.File(label="Drop an image of this class", elem_id="upload", height=120)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                strength = gr.Slider(0, 3, 1.5, step=0.05, label="Strength")
                noise = gr.Slider(0, 1, 0, step=0.02, label="Noise")
                alpha = gr.Slider(0.1, 4, 1, step=0.1, label="Alpha")
                mix = gr.Dropdown(["axis", "pair", "regions"], value="axis", label="Mix")
                gate = gr.Slider(0, 3, 1.25, step=0.05, label="Gate, 0 for none")
            with gr.Column(scale=3):
                told = gr.Textbox(show_label=False, interactive=False, elem_id="told")
                shown = gr.Gallery(label="Variants", columns=4, format="png", height="auto")
                changes = gr.Gallery(label="Changes", columns=4, format="png", height="auto")

        @reported
        def show(name: str, *values: Any) -> tuple[Any, ...]:
            return show_variants(opened(name), *values)

        @reported
        def choose(name: str, *values: Any) -> tuple[Any, ...]:
            names = list(opened(name).checkpoint.config.classes)
            outputs = show_variants(opened(name), names[0], None, *values)
            return gr.Dropdown(choices=names, value=names[0]), None, *outputs

        settings = [seed, strength, noise, alpha, mix, gate]
        results = [shown, changes, told]
        # One call at a time, because torch uses all cores for each.
        how = {"concurrency_id": "torch", "trigger_mode": "always_last", "show_progress": "hidden"}
        events = [page.load, label.select, upload.upload, upload.clear]
        events += [setting.input for setting in settings]
        gr.on(events, show, [flow, label, upload, *settings], results, **how)
        gr.on([flow.select], choose, [flow, *settings], [label, upload, *results], **how)
    return page


def main() -> None:
    """Serve the page until Ctrl-C, to this machine alone; a Space sets GRADIO_SERVER_NAME."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", nargs="*", default=FLOWS)
    parser.add_argument("--data", help="images to show, as for nfaug fit")
    parser.add_argument("--image-size", type=int, default=64, help="the size at which you train")
    options = parser.parse_args()
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    # By a name of its own that resolves to this machine, a page of another site could make the
    # browser take this server for its own (DNS rebinding).
    hosts = ["localhost", "127.0.0.1"] if host == "127.0.0.1" else ["*"]
    build_page(options.checkpoint, options.data, options.image_size).launch(
        server_name=host,
        share=False,
        max_file_size=UPLOAD,
        theme=gr.themes.Default(font="sans-serif", font_mono="monospace"),  # of no other server
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
    )


if __name__ == "__main__":
    main()
