"""A record of versions, device and time."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nfaug.io.atomic import write_text

__all__ = ["ENVIRONMENT", "environment", "save_environment"]

ENVIRONMENT = "environment.json"
_PACKAGES = ("nfaug", "torch", "torchvision", "numpy", "timm", "accelerate", "diffusers")


def environment(device: torch.device | str) -> dict[str, Any]:
    """Versions, system, device and UTC time as JSON values; no user or host name."""
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "device": f"{device}: {torch.cuda.get_device_name(device)}" if on_gpu else str(device),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }


def save_environment(folder: Path, device: torch.device | str) -> None:
    """Write `environment` to environment.json in a run's folder, creating the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / ENVIRONMENT, json.dumps(environment(device), indent=2) + "\n")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
