"""nfaug explore."""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import os
import sys
import threading
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from ..data.kinds import DATA_SOURCES
from .common import add_autoencoder, add_image_size, place
from .parser import BadValue, new_parser

_BUNDLED = ("builtin:fashion-mnist", "builtin:rgb32")  # with axes of their own classes
_FITTED = ("builtin:rgb32", "builtin:pixels")  # fitted to --data
_LAST_PORT = 65535


def parser() -> ArgumentParser:
    """Options of `nfaug explore`."""
    parser = new_parser(
        "explore",
        "Open a page in the browser that shows what NFA does to an image: its variants, and what "
        "they change. The page is served to this machine alone, until Ctrl-C. Nothing is sent "
        "elsewhere.",
        usage="[options]",
        example="nfaug explore --data my-images",
    )
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        help="checkpoints to choose from: folders, owner/name on the Hub, or builtin:NAME "
        f"(default: {', '.join(_BUNDLED)}; with --data {', '.join(_FITTED)}). A checkpoint of "
        "other classes than those of --data is first fitted to up to 100 images of each",
    )
    parser.add_argument("--data", help=f"images to show: {DATA_SOURCES}")
    add_image_size(parser, "that of the images, at most 160; choose the size at which you train")
    add_autoencoder(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=_port, help="port to listen on (default: the first free one from 7860)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser window")
    return parser


def _port(value: Any) -> int:
    text = str(value)
    if not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        # For a ValueError argparse would show the name of the type only.
        raise BadValue(f"a port is a whole number from 1 to {_LAST_PORT}; got {text!r}")
    return int(text)


def run(arguments: Namespace) -> dict[str, Any]:
    """Serve the page until it is interrupted."""
    from ..explore.app import build_app, serve

    if arguments.host != "localhost":
        ipaddress.ip_address(arguments.host)
    default_flows = _BUNDLED if arguments.data is None else _FITTED
    page = build_app(
        arguments.checkpoint or default_flows,
        arguments.data,
        autoencoder=arguments.autoencoder,
        image_size=arguments.image_size,
    )
    address = serve(
        page,
        host=arguments.host,
        port=arguments.port,
        inbrowser=not arguments.no_browser,
        prevent_thread_lock=True,
    )
    place("cpu").say()
    print(f"the explorer is at {address}; stop it with Ctrl-C", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    page.close(verbose=False)
    # A thread of the server may still be inside of C++ code: a normal exit would abort there.
    atexit.register(os._exit, 0)
    return {"address": address}
