"""The loopback Hub of the tests, and the client's variables that lead to it.

Import this module before anything imports huggingface_hub: the client reads ``HF_ENDPOINT`` once,
at its own import. The ports are reserved here, and nothing listens on them until a test asks for
the `hub` fixture, so a request that strays elsewhere is refused at once and never leaves the
machine.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from loopback_server import OWNER, READER, LoopbackHub

__all__ = ["HUB", "OWNER", "READER", "LoopbackHub", "hub"]

HUB = LoopbackHub()
HOME = tempfile.mkdtemp(prefix="loopback-hub-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
atexit.register(HUB.close)
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
    del os.environ[name]  # a developer's own token, cache or offline switch has no place here
os.environ |= {
    "HF_ENDPOINT": HUB.endpoint,
    "HF_HOME": HOME,
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[LoopbackHub]:
    """The running Hub, empty; the client is logged in as its owner and has a cold cache."""
    from huggingface_hub import close_session, constants

    if HUB.endpoint != constants.ENDPOINT:
        raise RuntimeError("huggingface_hub was imported before loopback_hub: import that first")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", OWNER)
    HUB.reset()
    HUB.start()
    yield HUB
    close_session()
    if HUB.dying is not None:
        HUB.dying.join()
    HUB.stop()
    assert not HUB.errors, HUB.errors
