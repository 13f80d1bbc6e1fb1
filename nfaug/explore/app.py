"""The explorer's page, in Gradio. `nfaug explore` serves it, and a Space of the Hub can."""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
from PIL import Image
from torch import Tensor

from ..augment.pixels import to_pil
from ..augment.settings import MixSettings
from ..data.decode import IMAGE_ENDINGS
from ..io.text import printable
from .pictures import (
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
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

__all__ = ["build_app", "serve"]

T = TypeVar("T")
_DRAWING = threading.Lock()
_SIDE = 168  # pixels up to which pictures are enlarged
_VARIANTS = 6
_UPLOAD = 8 * 2**20  # bytes of an uploaded file
_SIZES = {"native": None, "64": 64, "128": 128, "224": 224}
_DEFAULT = MixSettings()
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

Flows = Callable[[str], OpenFlow]


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
        data: Images to show; see `open_flow`, also for `autoencoder` and `image_size`.
        autoencoder: The autoencoder of flows on latents.
        image_size: Size of the images for flows of any size.

    Raises:
        ValueError, OSError: The first flow or the data cannot be opened.
    """
    opened = functools.lru_cache(maxsize=4)(
        functools.partial(open_flow, data=data, autoencoder=autoencoder, image_size=image_size)
    )

    def flow_of(name: str) -> OpenFlow:
        if name not in flows:
            raise ValueError(f"there is no flow {name!r} here; there are {', '.join(flows)}")
        return opened(name)

    first = flow_of(flows[0])
    with gr.Blocks(title="NFA explorer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_ABOUT)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=1, min_width=280):
                controls = _controls(flows, first)
            with gr.Column(scale=3):
                panes = _panes(first)
        _connect(page, flow_of, controls, panes)
    return page


def _controls(flows: Sequence[str], first: OpenFlow) -> SimpleNamespace:
    flow = gr.Dropdown([*flows], value=flows[0], label="Flow")
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
    axes = first.pca.rank
    settings = [  # those of `_MIXING`, then the gate
        gr.Slider(0, 3, _DEFAULT.strength, step=0.05, label="Strength"),
        gr.Slider(0, 1, _DEFAULT.noise, step=0.02, label="Noise"),
        gr.Slider(1, axes, axes, step=1, label="Axes"),
        gr.Slider(0.1, 4, _DEFAULT.alpha, step=0.1, label="Alpha"),
        gr.Dropdown(["axis", "pair"], value=_DEFAULT.mix, label="Weights per"),
        gr.Slider(0.25, 3, _DEFAULT.gate, step=0.05, label="Gate"),
        gr.Checkbox(True, label="Use the gate"),
    ]
    return SimpleNamespace(
        flow=flow, label=label, upload=upload, number=number, size=size, settings=settings
    )


def _panes(first: OpenFlow) -> SimpleNamespace:
    panes = SimpleNamespace()
    with gr.Tab("Variants"):
        panes.variants = _rows("What a classifier sees in training", 4)
        panes.told = gr.Markdown(elem_id="status")
        panes.differences = _rows("Differences to the image, around mid-grey", _VARIANTS)
    with gr.Tab("Path"):
        panes.latent = _rows("In the flow's latent space", 7)
        panes.pixels = _rows("In pixels, for comparison", 7)
        gr.Markdown("From the image to another of its class, which the seed picks.")
    with gr.Tab("Axis"):
        panes.axis = gr.Slider(1, first.pca.rank, 1, step=1, label="Axis of the class")
        panes.walk = _rows("Standard deviations along the axis", 7)
        panes.position = gr.Markdown()
    return panes


def _connect(page: gr.Blocks, flow_of: Flows, of: SimpleNamespace, panes: SimpleNamespace) -> None:
    """Say which function runs when, what it reads and what it fills."""
    image, other = gr.State(), gr.State()  # the image that is shown, and the path's other end
    axes = of.settings[_MIXING.index("axes")]

    def on(events: list[Any], function: Callable[..., Any], reads: list[Any], fills: Any) -> None:
        called = _reporting(functools.partial(function, flow_of))
        quick: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
        gr.on(events, called, reads, fills, api_name=function.__name__, **quick)

    on(
        [of.flow.change],
        choose_flow,
        [of.flow, of.size, of.number],
        [of.label, axes, panes.axis, of.upload, image, other],
    )
    chosen = [of.label.change, of.size.change, of.number.change, of.upload.upload, of.upload.clear]
    on(
        [page.load, *chosen],
        choose_image,
        [of.flow, of.label, of.size, of.number, of.upload],
        [image, other],
    )
    shown = [image.change, of.label.change]  # an uploaded image stays when its class changes
    on(
        [*shown, *(control.change for control in of.settings)],
        show_variants,
        [of.flow, of.label, image, of.number, *of.settings],
        [panes.variants, panes.differences, panes.told],
    )
    on([image.change], show_path, [of.flow, image, other], [panes.latent, panes.pixels])
    on(
        [*shown, panes.axis.change],
        show_axis,
        [of.flow, of.label, image, panes.axis],
        [panes.walk, panes.position],
    )


def choose_flow(flow_of: Flows, name: str, size: str, number: float | None) -> tuple[Any, ...]:
    """What changes with the flow: classes, axes, no upload, and the images of its first class."""
    flow = flow_of(name)
    classes = gr.Dropdown(choices=[*flow.classes], value=flow.classes[0])
    axes, axis = (gr.Slider(maximum=flow.pca.rank, value=at) for at in (flow.pca.rank, 1))
    return classes, axes, axis, None, *choose_image(flow_of, name, flow.classes[0], size, number)


def choose_image(
    flow_of: Flows,
    name: str,
    label: str,
    size: str,
    number: float | None,
    upload: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The image that is shown, and the other end of the path."""
    flow, side = flow_of(name), _SIZES[size]
    at = None if side is None else (side, side)
    drawn = class_images(flow, _index(flow, label), 2, seed=_seed(number), size=at)
    return (drawn[:1] if upload is None else read_picture(upload, flow, side)), drawn[1:]


def show_variants(
    flow_of: Flows,
    name: str,
    label: str,
    image: Tensor | None,
    number: float | None,
    *values: Any,
) -> Any:
    """The image, its reconstruction and its variants; their differences; and a line about them.

    `values` are those of the settings in `_controls`.
    """
    if image is None:  # controls may change before the page has its first image
        return gr.skip()
    flow = flow_of(name)
    *mixing, gate, gated = values
    chosen = dict(zip(_MIXING, mixing, strict=True))
    chosen["axes"] = min(int(chosen["axes"]), flow.pca.rank)
    settings = MixSettings(**chosen, gate=gate if gated else None)
    shown = compare(flow, image, _index(flow, label), settings, n=_VARIANTS, seed=_seed(number))
    names = [f"variant {i}" for i in range(1, _VARIANTS + 1)]
    captions = [a if b else f"{a}: unchanged" for a, b in zip(names, shown.changed, strict=True)]
    height, width = flow.size
    decoded = f"decoded, {height} x {width}"
    exact = "bit for bit" if torch.equal(shown.decoded, image) else "with differences"
    side = "inside" if shown.radius <= gate else "outside"
    told = (
        f"The flow, of {height} x {width} pixels, returns the image **{exact}**. As "
        f"*{_plain(label)}* its radius is **{shown.radius:.2f}**, "
        f"{f'{side} the gate' if gated else 'without a gate'}. NFA changed {sum(shown.changed)} of "
        f"{_VARIANTS} variants."
    )
    top = _gallery([image, shown.decoded, *shown.variants[:, None]], ["image", decoded, *captions])
    return top, _gallery(shown.differences[:, None], names), told


def show_path(flow_of: Flows, name: str, image: Tensor | None, other: Tensor | None) -> Any:
    """Pictures on the way to the other image, in latent space and in pixels."""
    if image is None or other is None:
        return gr.skip()
    latent, pixels = path_between(flow_of(name), image, other)
    steps = [f"{100 * i / (len(latent) - 1):.0f}%" for i in range(len(latent))]
    return _gallery(latent[:, None], steps), _gallery(pixels[:, None], steps)


def show_axis(flow_of: Flows, name: str, label: str, image: Tensor | None, axis: float) -> Any:
    """Pictures along an axis of the class, and a line about it."""
    if image is None:
        return gr.skip()
    flow = flow_of(name)
    positions = range(-3, 4)
    walk, own, share = walk_axis(flow, image, _index(flow, label), int(axis) - 1, positions)
    told = (
        f"Axis {int(axis)} of *{_plain(label)}* has {share:.0%} of the variance along the class's "
        f"axes. This image lies at {own:+.1f} standard deviations."
    )
    return _gallery(walk[:, None], [f"{position:+}" for position in positions]), told


def serve(
    page: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Sequence[str] = (),
    **options: Any,
) -> str:
    """Serve the page until the process ends, and return its address.

    Nothing is sent elsewhere: no usage statistics, no public link, no fonts of other servers.

    Args:
        page: The page.
        host: Address to listen on; the default is reached from this machine alone.
        port: Port; None for the first free one from 7860.
        names: More host names that visitors reach the page by, such as that of a proxy. Without
            them it answers under `host`, this machine's name and numeric addresses.
        options: More arguments of Gradio's `launch`.
    """
    theme = gr.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    known = {"localhost", host, socket.gethostname(), *names}
    _, local, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        max_file_size=_UPLOAD,
        theme=theme,
        css=_CSS,
        app_kwargs={"middleware": [Middleware(_OwnNames, known=known)]},
        **options,
    )
    return str(local)


class _OwnNames:
    """Answers requests to known host names and to addresses, which come from its own pages.

    A page of another site can make the browser take this server for its own, by a host name of
    that site which resolves to this machine (DNS rebinding). Addresses need no name server.
    """

    def __init__(self, app: Any, known: set[str]) -> None:
        self.app, self.known = app, known

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            host = headers.get("host", "")
            origin = urlsplit(headers.get("origin", f"//{host}")).netloc
            if origin != host or not self._is_known(urlsplit(f"//{host}").hostname or ""):
                refused = PlainTextResponse("the explorer does not answer under this name", 403)
                await refused(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_known(self, name: str) -> bool:
        try:
            return name in self.known or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _reporting(function: Callable[..., T]) -> Callable[..., T]:
    """Show the reason of an error that a visitor can cause as a message on the page.

    One function runs at a time, because torch uses all cores for each.
    """

    def reported(*values: Any) -> T:
        try:
            with _DRAWING:
                return function(*values)
        except (ValueError, OSError) as error:
            raise gr.Error(
                _plain(error), duration=None, title="This does not work", print_exception=False
            ) from error

    return reported


def _plain(text: object) -> str:
    """Text that HTML and Markdown show as it is: class names come from strangers' flows."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in printable(text))


def _seed(number: float | None) -> int:
    return int(number or 0) % 2**31  # the field may be empty


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
