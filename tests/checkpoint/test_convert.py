from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from nfaug.checkpoint.convert import convert_checkpoint, infer_config
from nfaug.checkpoint.torch_zip import Placeholder, StoredTensor, TorchZip
from nfaug.flows.flow import Flow, FlowConfig

FOLDER = Path(__file__).parents[1] / "golden"
NAMES = ("rgb16", "gray16", "lowrank16")
DIM = 3 * 16 * 16


class Settings:
    """A class that a reader must not need."""

    def __init__(self) -> None:
        self.values = {"lr": 0.01}


class SettingsDict(dict[str, int]):
    """A container that a reader must not need."""


class Attack:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under their released names, and the figures."""
    with safe_open(FOLDER / f"mef_{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    prefix = "state_dict."
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return weights, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def released(name: str = "rgb16", **extra: Tensor) -> dict[str, Any]:
    """What a Lightning file of the released code holds."""
    weights, _ = golden(name)
    state = OrderedDict((f"flow.{key}", value) for key, value in weights.items())
    for key, value in extra.items():
        state[key.replace("__", ".")] = value
    settings = SettingsDict(a=1)
    return {
        "state_dict": state,
        "epoch": 12,
        "global_step": 3456,
        "hyper_parameters": Settings(),
        "callbacks": [settings, {Settings}],
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}}],
    }


def save(content: Any, folder: Path) -> Path:
    path = folder / "released.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_the_golden_flow_comes_out(name: str, tmp_path: Path) -> None:
    _, figures = golden(name)
    converted = convert_checkpoint(save(released(name), tmp_path))
    with torch.no_grad():
        z, _ = converted.flow.encode(figures["image"], figures["noise"])
    assert (z - figures["z"]).abs().max() < 1e-5 * figures["z"].abs().max()
    assert converted.gaussians is None
    assert converted.info["weights"] == "flow."
    assert converted.info["epoch"] == 12
    assert converted.info["global_step"] == 3456
    assert f"{__name__}.Settings" in converted.info["left_out"]


@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "ema.ema_model."])
def test_the_moving_average_is_preferred(prefix: str, tmp_path: Path) -> None:
    content = released()
    state = content["state_dict"]
    for key in list(state):
        state[prefix + key.removeprefix("flow.")] = nn.Parameter(
            state[key] + 1, requires_grad=False
        )
    state["ema.initted"] = torch.tensor(True)
    state["ema.step"] = torch.tensor(7)
    converted = convert_checkpoint(save(content, tmp_path))
    name = "blocks.0.0.actnorm.shift"
    assert torch.equal(converted.flow.state_dict()[name], golden("rgb16")[0][name] + 1)
    assert converted.info["weights"] == prefix


@pytest.mark.parametrize("dense", [True, False])
def test_gaussians_are_read(dense: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    means, scales = torch.randn(3, DIM), torch.rand(3, DIM) + 0.5
    extra = {f"flow__mu_arr__{k}": means[k] for k in range(3)}
    extra |= {f"flow__cov_lower_arr__{k}": torch.zeros(DIM) for k in range(3)}
    extra |= {
        f"flow__scale_tril_arr__{k}": torch.diag(scales[k]) if dense else scales[k]
        for k in range(3)
    }
    path = save(released(**extra), tmp_path)
    gaussians = convert_checkpoint(path).gaussians
    assert gaussians is not None
    assert torch.equal(gaussians.means, means)
    assert torch.allclose(gaussians.variances, scales**2)
    assert convert_checkpoint(path, gaussians=False).gaussians is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"flow__mu_arr__0": torch.ones(DIM)}, r"scale_tril_arr has classes \[\], not 0 to 0"),
        (
            {"flow__mu_arr__1": torch.ones(DIM), "flow__scale_tril_arr__1": torch.ones(DIM)},
            r"mu_arr has classes \[1\], not 0 to 0",
        ),
        (
            {"flow__mu_arr__0": torch.ones(5), "flow__scale_tril_arr__0": torch.ones(5)},
            r"mu_arr.0 has shape \(5,\); the latents have 768",
        ),
        (
            {"flow__mu_arr__0": torch.ones(DIM), "flow__scale_tril_arr__0": torch.ones(2, 2)},
            r"scale_tril_arr.0 has shape \(2, 2\); \(768,\) or \(768, 768\)",
        ),
        (
            {
                "flow__mu_arr__0": torch.ones(DIM),
                "flow__scale_tril_arr__0": torch.ones(DIM, DIM).tril(),
            },
            r"scale_tril_arr.0 is a dense covariance",
        ),
    ],
)
def test_gaussians_that_cannot_be_read(
    extra: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    path = save(released(**extra), tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        convert_checkpoint(path)
    assert "gaussians=False" in str(error.value)
    convert_checkpoint(path, gaussians=False)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"flow__blocks__0__0__extra__weight": torch.ones(1), "net__weight": torch.ones(1)},
            r"keys that no flow of nfaug has: flow.blocks.0.0.extra.weight, net.weight$",
        ),
        (
            {"flow__blocks__0__0__couplinglayer__net__attention__qkv__weight": torch.ones(1)},
            "use_attention_after",
        ),
        (
            {"flow__blocks__0__5__actnorm__scale": torch.ones(12, 8, 8)},
            r"missing blocks\.0\.2\.actnorm.*unexpected blocks\.0\.5",
        ),
        ({"flow__blocks__0__1__actnorm__scale": torch.ones(1)}, "misshapen blocks.0.1.actnorm"),
        ({"flow__blocks__0__1__actnorm__scale": torch.full((12, 8, 8), torch.nan)}, "NaN"),
        ({"flow__blocks__0__0__actnorm__scale": torch.ones(1)}, "need a 3-dimensional blocks.0.0"),
    ],
)
def test_weights_that_fit_no_flow(extra: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(save(released(**extra), tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "no state_dict"),
        ({"state_dict": {}}, "no state_dict"),
        ({"state_dict": {"a": torch.ones(1)}}, "holds no flow: none of its 1 tensors"),
    ],
)
def test_files_that_are_no_checkpoint(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(save(content, tmp_path))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps(released()))
    with pytest.raises(ValueError, match="is no zip archive"):
        convert_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        convert_checkpoint(tmp_path / "nothing.ckpt")


def test_a_hostile_object_runs_nothing(tmp_path: Path) -> None:
    content = released()
    content["callbacks"] = Attack(tmp_path / "ran")
    path = save(content, tmp_path)
    assert "posix.system" in convert_checkpoint(path).info["left_out"]
    assert not (tmp_path / "ran").exists()
    # The same file does run the command when it is unpickled as usual.
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def archive(
    folder: Path, data: bytes, storages: dict[str, bytes] | None = None, **options: Any
) -> Path:
    path = folder / "hand.ckpt"
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("x/data.pkl", data)
        for key, value in (storages or {}).items():
            file.writestr(f"x/data/{key}", value)
    return path


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",  # REDUCE
        b"(S'touch {}'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch {}'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n(S'touch {}'\nt\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch {}'\ntR.",  # STACK_GLOBAL
        b'cbuiltins\neval\n(S\'__import__("os").system("touch {}")\'\ntR.',
    ],
)
def test_every_way_to_call_calls_nothing(code: bytes, tmp_path: Path) -> None:
    data = code.replace(b"{}", str(tmp_path / "ran").encode())
    with TorchZip(archive(tmp_path, data)) as file:
        assert isinstance(file.content, Placeholder)
    assert not (tmp_path / "ran").exists()


def test_state_set_on_what_is_rebuilt_changes_nothing(tmp_path: Path) -> None:
    before = dict(vars(StoredTensor))
    for target in ("torch._utils\n_rebuild_tensor_v2", "collections\nOrderedDict"):
        data = f"c{target}\n(dS'__init__'\nI1\nstb.".encode()
        with pytest.raises(ValueError, match=r"data\.pkl cannot be read"):
            TorchZip(archive(tmp_path, data))
    assert dict(vars(StoredTensor)) == before


def tensor_pickle(size: Any, stride: Any, offset: Any = 0, numel: Any = 4, key: Any = "0") -> bytes:
    """A pickle of one tensor with any layout, as torch.save writes it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value if isinstance(value, tuple) and value[:1] == ("storage",) else None

    class Made:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = ("storage", torch.FloatStorage, key, "cpu", numel)
            arguments = (storage, offset, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Made())
    return buffer.getvalue()


def test_layouts_inside_the_storage_are_read(tmp_path: Path) -> None:
    values = torch.arange(4.0)
    path = archive(tmp_path, tensor_pickle((2, 2), (1, 2)), {"0": values.numpy().tobytes()})
    with TorchZip(path) as file:
        assert file.tensor("a", file.content).tolist() == [[0, 2], [1, 3]]
    path = archive(tmp_path, tensor_pickle((0, 7), (1, 1), numel=0))
    with TorchZip(path) as file:
        assert file.tensor("a", file.content).shape == (0, 7)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"size": (5,), "stride": (1,)}, "does not lie inside"),
        ({"size": (2,), "stride": (4,)}, "does not lie inside"),
        ({"size": (2,), "stride": (1,), "offset": 3}, "does not lie inside"),
        ({"size": (2**40,), "stride": (0,)}, "does not lie inside"),
        ({"size": (2,), "stride": (-1,)}, "not described"),
        ({"size": (2.0,), "stride": (1,)}, "not described"),
        ({"size": (2, 2), "stride": (1,)}, "not described"),
        ({"size": 2, "stride": 1}, "not described"),
        ({"size": (2,), "stride": (1,), "numel": 2**20}, "cut short"),
        ({"size": (2,), "stride": (1,), "key": "../../etc"}, "cannot be read"),
        ({"size": (2,), "stride": (1,), "key": 3}, "not described"),
    ],
)
def test_layouts_outside_the_storage_are_refused(
    layout: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with (
        TorchZip(archive(tmp_path, tensor_pickle(**layout), {"0": bytes(16)})) as file,
        pytest.raises(ValueError, match=message),
    ):
        file.tensor("a", file.content)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, b"N.", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed or larger"):
        TorchZip(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = save(released(), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"released\.ckpt"):
        convert_checkpoint(path)


@pytest.mark.parametrize(
    ("couplings", "expected"),
    [([(6, 42), (12, 156)], (24, 3)), ([(6, 42), (32, 224)], (24, 3)), ([(32, 160)], (24, 2))],
)
def test_ranks_are_inferred(couplings: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    weights = {}
    for level, (n, out) in enumerate(couplings):
        net = f"blocks.{level}.0.couplinglayer.net."
        weights[f"blocks.{level}.0.actnorm.scale"] = torch.empty(2 * n, 4, 4)
        weights[f"{net}layers.0.conv.weight"] = torch.empty(8, n, 3, 3)
        weights[f"{net}out_layer.weight"] = torch.empty(out, 8, 3, 3)
    config = infer_config(weights)
    assert (config.low_rank_above, config.rank) == expected


@pytest.mark.parametrize("blocks", [(0, 2), (1, 0)])
def test_a_flow_of_ours_is_inferred_from_its_weights(blocks: tuple[int, int]) -> None:
    config = FlowConfig(channels=1, image_size=(4, 8), steps=(1, 2), blocks=blocks, width=(3, 5))
    assert infer_config(Flow(config).state_dict()) == config
