"""The explorer's page, in Gradio. `nfaug explore` serves it, and a Space of the Hub can."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args, get_type_hints

import torch
from PIL import Image
from torch import Tensor

from ..augment.pixels import to_pil
from ..augment.settings import MixSettings
from ..data.decode import IMAGE_ENDINGS
from ..io.resolve import public_name
from ..io.text import printable
from .pictures import OpenFlow, class_images, compare, open_flow, read_picture

# Gradio reads these when it is imported: no usage statistics, and no history of runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

__all__ = ["build_app", "serve"]

_SIDE = 168  # pixels up to which pictures are enlarged
_VARIANTS = 6
_UPLOAD = 8 * 2**20  # bytes of an uploaded file
_MIXING = ("strength", "noise", "axes", "alpha", "mix")  # settings with a control, but the gate
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
#upload .icon-wrap, footer { display: none !important; }
@media (max-width: 760px) { #main { flex-wrap: wrap; } #main > * { flex-basis: 100%; } }
"""


def build_app(
    flows: Sequence[str],
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> gr.Blocks:
    """The page as Gradio blocks, which `serve` or a Space launches.

    Args:
        flows: Flows to choose from, the only ones that are ever loaded. The first is opened now.
            The page shows the last part of a path, and a number where two are equal.
        data: Images to show; see `open_flow`, also for `autoencoder` and `image_size`.
        autoencoder: The autoencoder of flows on latents.
        image_size: Size of the images for flows of any size.

    Raises:
        ValueError, OSError: The first flow or the data cannot be opened.
    """
    opened = functools.lru_cache(maxsize=4)(
        functools.partial(open_flow, data=data, autoencoder=autoencoder, image_size=image_size)
    )

    sources = _named(flows)

    def flow_of(name: str) -> OpenFlow:
        if name not in sources:
            raise ValueError(f"there is no flow {name!r} here; there are {', '.join(sources)}")
        return opened(sources[name])

    names = list(sources)
    first = flow_of(names[0])
    with gr.Blocks(title="NFA explorer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_ABOUT)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=1, min_width=280):
                controls = flow, label, upload, *rest = _controls(names, first)
            with gr.Column(scale=3):
                top = _rows("What a classifier sees in training", 4)
                told = gr.Markdown(elem_id="status")
                differences = _rows("Differences to the image, around mid-grey", _VARIANTS)
    shown = [top, differences, told]

    def calling(function: Callable[..., Any]) -> dict[str, Any]:
        return {
            "fn": _reporting(functools.partial(function, flow_of)),
            "api_name": function.__name__,
            "concurrency_id": "torch",  # one call at a time, because torch uses all cores for each
            "trigger_mode": "always_last",
            "show_progress": "hidden",
        }

    with page:
        # Only what a visitor does starts a call, and one call changes all that depends on it. A
        # call that the end of another one starts can lose its answer: Gradio closes the stream.
        done = [page.load, label.select, upload.upload, upload.clear, *(x.input for x in rest)]
        gr.on(done, inputs=controls, outputs=shown, **calling(show_variants))
        changed = [label, rest[3], upload, *shown]
        gr.on([flow.select], inputs=[flow, *rest], outputs=changed, **calling(choose_flow))
    return page


def _named(flows: Sequence[str]) -> dict[str, str]:
    """The flows by names for visitors, who need not see the folders of this machine."""
    named = dict[str, str]()
    for source in flows:
        plain = public_name(source)
        name = plain
        number = 2
        while name in named:
            name = f"{plain} ({number})"
            number += 1
        named[name] = source
    return named


def _controls(names: Sequence[str], first: OpenFlow) -> list[Any]:
    """The controls in the order of the parameters of `show_variants`."""
    default, axes = MixSettings(), first.engine.rank
    kinds = get_args(get_type_hints(MixSettings)["mix"])
    return [
        gr.Dropdown(list(names), value=names[0], label="Flow"),
        gr.Dropdown([*first.engine.class_names], value=first.engine.class_names[0], label="Class"),
        gr.File(
            label="Drop an image of this class",
            file_types=[*IMAGE_ENDINGS],
            type="filepath",
            height=120,
            elem_id="upload",
        ),
        gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80),
        gr.Slider(0, 3, default.strength, step=0.05, label="Strength"),
        gr.Slider(0, 1, default.noise, step=0.02, label="Noise"),
        gr.Slider(1, max(2, axes), axes, step=1, label="Axes"),
        gr.Slider(0.1, 4, default.alpha, step=0.1, label="Alpha"),
        gr.Dropdown([*kinds], value=default.mix, label="Weights per"),
        gr.Slider(0.25, 3, default.gate, step=0.05, label="Gate"),
        gr.Checkbox(True, label="Use the gate"),
    ]


def choose_flow(
    flow_of: Callable[[str], OpenFlow], name: str, number: float | None, *values: Any
) -> tuple[Any, ...]:
    """The first class, all axes and no upload, and what `show_variants` then shows."""
    flow, (strength, noise, _, *others) = flow_of(name), values
    names, axes = flow.engine.class_names, flow.engine.rank
    shown = show_variants(flow_of, name, names[0], None, number, strength, noise, axes, *others)
    classes = gr.Dropdown(choices=[*names], value=names[0])
    return classes, gr.Slider(maximum=max(2, axes), value=axes), None, *shown


def show_variants(
    flow_of: Callable[[str], OpenFlow],
    name: str,
    label: str,
    upload: str | None,
    number: float | None,
    *values: Any,
) -> tuple[Any, ...]:
    """The image, its reconstruction and its variants; their differences; and a line about them.

    `values` are those of the settings in `_controls`.
    """
    flow = flow_of(name)
    names = flow.engine.class_names
    if label not in names:
        raise ValueError(f"the flow has no class {label!r}; it has {', '.join(names[:20])}")
    index = names.index(label)
    seed = int(number or 0) % 2**31  # the field may be empty
    *mixing, gate, gated = values
    chosen = dict(zip(_MIXING, mixing, strict=True))
    axes = int(chosen["axes"])
    chosen["axes"] = axes if axes < flow.engine.rank else None
    settings = MixSettings(**chosen, gate=gate if gated else None)
    if upload is None:
        image = class_images(flow, index, 1, seed=seed)
    else:
        image = read_picture(upload, flow)
    shown = compare(flow, image, index, settings, n=_VARIANTS, seed=seed)
    titles = [f"variant {i}" for i in range(1, _VARIANTS + 1)]
    captions = [a if b else f"{a}: unchanged" for a, b in zip(titles, shown.changed, strict=True)]
    height, width = flow.checkpoint.flow.codec.image_size
    exact = "bit for bit" if torch.equal(shown.decoded, image) else "with differences"
    side = "inside" if shown.radius <= gate else "outside"
    told = (
        f"The flow, of {height} x {width} pixels, returns the image **{exact}**. As "
        f"*{_plain(label)}* its radius is **{shown.radius:.2f}**, "
        f"{f'{side} the gate' if gated else 'without a gate'}. NFA changed {sum(shown.changed)} of "
        f"{_VARIANTS} variants."
    )
    images = [image, shown.decoded, *shown.variants[:, None]]
    top = _gallery(images, ["image", f"decoded, {height} x {width}", *captions])
    return top, _gallery(shown.differences[:, None], titles), told


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
    # By a host name of its own that resolves to this machine, a page of another site could make the
    # browser take this server for its own (DNS rebinding).
    local = ["localhost", "127.0.0.1"]
    hosts = local if host in local else ["*"]
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        max_file_size=_UPLOAD,
        theme=theme,
        css=_CSS,
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
        **options,
    )
    return str(address)


def _reporting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show the reason of an error that a visitor can cause as a message on the page."""

    def reported(*values: Any) -> Any:
        try:
            return function(*values)
        except (ValueError, OSError) as error:
            raise gr.Error(
                _plain(error), duration=None, title="This does not work", print_exception=False
            ) from error

    return reported


def _plain(text: object) -> str:
    """Text that HTML and Markdown show as it is: class names come from strangers' flows."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in printable(text))


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


def _gallery(images: Iterable[Tensor], captions: Sequence[str]) -> list[tuple[Image.Image, str]]:
    return [(_picture(image[0]), text) for image, text in zip(images, captions, strict=True)]


def _picture(image: Tensor) -> Image.Image:
    """A PIL image of uint8 (C, H, W), enlarged by a whole factor."""
    pixels = image if image.shape[0] in (1, 3) else image[:1]
    picture = to_pil(pixels.permute(1, 2, 0).contiguous().numpy())
    factor = max(1, round(_SIDE / max(picture.size)))
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
