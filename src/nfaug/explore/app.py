"""The explorer's page, in Gradio. `nfaug explore` serves it, and a Space of the Hub can."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, get_args, get_type_hints

from PIL import Image
from torch import Tensor

from ..augment.config import MixConfig
from ..augment.pixels import to_pil
from ..data.decode import IMAGE_ENDINGS
from ..io.extras import optional_imports
from ..io.text import printable, public_name
from .pictures import OpenFlow, class_images, compare, open_flow, read_picture

# Gradio reads these when it is imported: no usage statistics, and no history of runs.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

with optional_imports():
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

__all__ = ["build_app", "serve"]

_SIDE = 168  # pixels up to which pictures are enlarged
_VARIANTS = 6
_UPLOAD = 8 * 2**20  # bytes of an uploaded file
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
@media (max-width: 760px) {
  #main { flex-wrap: wrap; }
  #main > * { flex-basis: 100%; }
  #pictures { order: -1; }
  .pictures .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)) !important; }
}
"""


class _Controls(NamedTuple):
    """The controls, in the order of the parameters of `show_variants`."""

    flow: gr.Dropdown
    label: gr.Dropdown
    upload: gr.File
    seed: gr.Number
    strength: gr.Slider
    noise: gr.Slider
    alpha: gr.Slider
    mix: gr.Dropdown
    gate: gr.Slider
    gated: gr.Checkbox


def build_app(
    flows: Sequence[str],
    data: str | None = None,
    *,
    autoencoder: str | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> gr.Blocks:
    """The page as Gradio blocks, which `serve` or a Space launches.

    Args:
        flows: Checkpoints to choose from, the only ones that are ever loaded. The first is opened
            now.
            The page shows the last part of a path, and a number where two are equal.
        data: Images to show; see `open_flow`, also for `autoencoder` and `image_size`.
        autoencoder: The autoencoder of flows on latents.
        image_size: Size of the images for flows of any size.

    Returns:
        The page.

    Raises:
        ValueError, OSError: The first checkpoint or the data cannot be opened.

    Example:
        >>> from nfaug.explore.app import build_app
        >>> build_app(["builtin:no-such"])
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no bundled checkpoint 'builtin:no-such' ...
    """

    @functools.lru_cache(maxsize=4)
    def opened(source: str) -> OpenFlow:
        return open_flow(source, data, autoencoder=autoencoder, image_size=image_size)

    sources = _flows_by_name(flows)

    def flow_of(name: str) -> OpenFlow:
        if name not in sources:
            raise ValueError(
                f"there is no checkpoint {name!r} here; there are {', '.join(sources)}"
            )
        return opened(sources[name])

    names = list(sources)
    first = flow_of(names[0])
    with gr.Blocks(title="NFA explorer", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_ABOUT)
        with gr.Row(elem_id="main"):
            with gr.Column(scale=1, min_width=280):
                controls = _make_controls(names, first)
            with gr.Column(scale=3, elem_id="pictures"):  # above the controls on a phone
                variants = _add_gallery("What a classifier sees in training", 4)
                status = gr.Markdown(elem_id="status")
                differences = _add_gallery("Differences to the image, around mid-gray", _VARIANTS)

    def calling(function: Callable[..., Any]) -> dict[str, Any]:
        return {
            "fn": _reporting(functools.partial(function, flow_of)),
            "api_name": function.__name__,
            "concurrency_id": "torch",  # one call at a time, because torch uses all cores for each
            "trigger_mode": "always_last",
            "show_progress": "hidden",
        }

    settings: list[Any] = list(controls[3:])  # all but flow, class and upload
    outputs: list[Any] = [variants, differences, status]
    flow_inputs: list[Any] = [controls.flow]
    flow_inputs += settings
    flow_outputs: list[Any] = [controls.label, controls.upload]
    flow_outputs += outputs
    with page:
        # Only what a visitor does starts a call, and one call changes all that depends on it. A
        # call that the end of another one starts can lose its answer: Gradio closes the stream.
        events = [page.load, controls.label.select, controls.upload.upload, controls.upload.clear]
        events += [control.input for control in settings]
        gr.on(events, inputs=list(controls), outputs=outputs, **calling(show_variants))
        gr.on(
            [controls.flow.select],
            inputs=flow_inputs,
            outputs=flow_outputs,
            **calling(choose_flow),
        )
    return page


def _flows_by_name(flows: Sequence[str]) -> dict[str, str]:
    """The flows by the names that visitors see, which hide the folders of this machine."""
    sources: dict[str, str] = {}
    for source in flows:
        public = public_name(source)
        name = public
        number = 2
        while name in sources:
            name = f"{public} ({number})"
            number += 1
        sources[name] = source
    return sources


def _make_controls(names: Sequence[str], first: OpenFlow) -> _Controls:
    """The controls for flows of these names, of which the first is shown."""
    default = MixConfig()
    classes = list(first.engine.classes)
    kinds = get_args(get_type_hints(MixConfig)["mix"])
    return _Controls(
        flow=gr.Dropdown(list(names), value=names[0], label="Checkpoint"),
        label=gr.Dropdown(classes, value=classes[0], label="Class"),
        upload=gr.File(
            label="Drop an image of this class",
            file_types=list(IMAGE_ENDINGS),
            type="filepath",
            height=120,
            elem_id="upload",
        ),
        seed=gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80),
        strength=gr.Slider(0, 3, default.strength, step=0.05, label="Strength"),
        noise=gr.Slider(0, 1, default.noise, step=0.02, label="Noise"),
        alpha=gr.Slider(0.1, 4, default.alpha, step=0.1, label="Alpha"),
        mix=gr.Dropdown(list(kinds), value=default.mix, label="Weights per"),
        gate=gr.Slider(0.25, 3, default.gate, step=0.05, label="Gate"),
        gated=gr.Checkbox(True, label="Use the gate"),
    )


def choose_flow(
    flow_of: Callable[[str], OpenFlow],
    name: str,
    seed: float | None,
    strength: float,
    noise: float,
    alpha: float,
    mix: Any,
    gate: float,
    gated: bool,
) -> tuple[Any, ...]:
    """The first class and no upload, and what `show_variants` then shows."""
    flow = flow_of(name)
    classes = list(flow.engine.classes)
    outputs = show_variants(
        flow_of, name, classes[0], None, seed, strength, noise, alpha, mix, gate, gated
    )
    label_update = gr.Dropdown(choices=classes, value=classes[0])
    return label_update, None, *outputs


def show_variants(
    flow_of: Callable[[str], OpenFlow],
    name: str,
    label: str,
    upload: str | None,
    seed: float | None,
    strength: float,
    noise: float,
    alpha: float,
    mix: Any,
    gate: float,
    gated: bool,
) -> tuple[Any, ...]:
    """The image, its reconstruction and its variants; their differences; and a line about them."""
    flow = flow_of(name)
    names = flow.engine.classes
    if label not in names:
        raise ValueError(f"the checkpoint has no class {label!r}; it has {', '.join(names[:20])}")
    index = names.index(label)
    whole_seed = int(seed or 0) % 2**31  # the field may be empty
    settings = MixConfig(
        strength=strength,
        noise=noise,
        alpha=alpha,
        mix=mix,
        gate=gate if gated else None,
    )
    if upload is None:
        image = class_images(flow, index, 1, seed=whole_seed)
    else:
        image = read_picture(upload, flow)
    comparison = compare(flow, image, index, settings, n=_VARIANTS, seed=whole_seed)

    height, width = flow.checkpoint.flow.codec.image_size
    titles = [f"variant {number}" for number in range(1, _VARIANTS + 1)]
    images = [image[0], comparison.decoded[0]]
    images.extend(comparison.variants)
    captions = ["image", f"decoded, {height} x {width}"]
    for title, changed in zip(titles, comparison.changed, strict=True):
        captions.append(title if changed else f"{title}: unchanged")

    exact = "bit for bit" if comparison.exact else "with differences"
    position = "the gate is off"
    if gated:
        passes = comparison.radius <= gate
        position = "the gate lets it through" if passes else "the gate leaves it unchanged"
    status = (
        f"The checkpoint works at {height} x {width} pixels, where it returns the image "
        f"**{exact}**. As *{_escape(label)}* the image needs a gate of "
        f"**{comparison.radius:.2f}**: {position}. {sum(comparison.changed)} of {_VARIANTS} "
        "variants differ from it."
    )
    return _captioned(images, captions), _captioned(comparison.differences, titles), status


def serve(
    page: gr.Blocks, *, host: str = "127.0.0.1", port: int | None = None, **options: Any
) -> str:
    """Serve the page until the process ends.

    Nothing is sent elsewhere: no usage statistics, no public link, no fonts of other servers.

    Args:
        page: The page.
        host: Address to listen on; the default is reached from this machine alone.
        port: Port; None for the first free one from 7860.
        options: More arguments of Gradio's `launch`.

    Returns:
        Its address.

    Example:
        >>> from nfaug.explore.app import build_app, serve
        >>> serve(build_app(["builtin:pixels"], "digits"))  # doctest: +SKIP
        'http://127.0.0.1:7860/'
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
                _escape(error), duration=None, title="This does not work", print_exception=False
            ) from error

    return reported


def _escape(text: object) -> str:
    """Text with all marks of HTML and Markdown escaped, since flows of others name the classes."""
    escaped = ""
    for character in printable(text):
        if character.isalnum() or character == " ":
            escaped += character
        else:
            escaped += f"&#{ord(character)};"
    return escaped


def _add_gallery(title: str, columns: int) -> gr.Gallery:
    """A gallery under a title, filled row by row."""
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


def _captioned(images: Iterable[Tensor], captions: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """The pictures of uint8 images (C, H, W), each with its caption."""
    return [(_picture(image), text) for image, text in zip(images, captions, strict=True)]


def _picture(image: Tensor) -> Image.Image:
    """A PIL image of uint8 (C, H, W), enlarged by a whole factor."""
    pixels = image if image.shape[0] in (1, 3) else image[:1]
    picture = to_pil(pixels.permute(1, 2, 0).contiguous().numpy())
    factor = max(1, round(_SIDE / max(picture.size)))
    return picture.resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
    )
