from __future__ import annotations

import io
import os
import pickle
import shutil
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from released_tools import DIM, NAMES, Settings, golden, released, save
from torch import Tensor, nn

from nfaug.checkpoint.convert import convert_checkpoint, convert_state, infer_config
from nfaug.checkpoint.foreign import read_foreign
from nfaug.flows.flow import Flow, FlowConfig
from nfaug.io.manifest import CheckpointError

pytestmark = pytest.mark.usefixtures("forked_reader")


class Attack:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, path: Path, copy: Any = None) -> None:
        self.path, self.copy = path, copy

    def __reduce__(self) -> tuple[Any, ...]:
        if self.copy is not None:
            return self.copy, (__file__, str(self.path))
        return os.system, (f"touch {self.path}",)


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
    assert f"{Settings.__module__}.Settings" in converted.info["left_out"]


@pytest.mark.parametrize("prefix", ["ema.ema_model.flow.", "ema.ema_model."])
def test_the_moving_average_is_preferred(prefix: str) -> None:
    content = released()
    state = content["state_dict"]
    for key in list(state):
        state[prefix + key.removeprefix("flow.")] = nn.Parameter(
            state[key] + 1, requires_grad=False
        )
    state["ema.initted"] = torch.tensor(True)
    state["ema.step"] = torch.tensor(7)
    converted = convert_state(state)
    name = "blocks.0.0.actnorm.shift"
    assert torch.equal(converted.flow.state_dict()[name], golden("rgb16")[0][name] + 1)
    assert converted.info["weights"] == prefix


@pytest.mark.parametrize("dense", [True, False])
def test_gaussians_are_read(dense: bool) -> None:
    torch.manual_seed(0)
    means, scales = torch.randn(3, DIM), torch.rand(3, DIM) + 0.5
    extra = {f"flow__mu_arr__{k}": means[k] for k in range(3)}
    extra |= {f"flow__cov_lower_arr__{k}": torch.zeros(DIM) for k in range(3)}
    extra |= {
        f"flow__scale_tril_arr__{k}": torch.diag(scales[k]) if dense else scales[k]
        for k in range(3)
    }
    state = released(**extra)["state_dict"]
    gaussians = convert_state(state).gaussians
    assert gaussians is not None
    assert torch.equal(gaussians.means, means)
    assert torch.allclose(gaussians.variances, scales**2)
    assert convert_state(state, gaussians=False).gaussians is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"flow__mu_arr__0": torch.ones(DIM)}, "scale_tril_arr"),
        (
            {"flow__mu_arr__1": torch.ones(DIM), "flow__scale_tril_arr__1": torch.ones(DIM)},
            r"mu_arr.*\[1\]",
        ),
        (
            {"flow__mu_arr__0": torch.ones(5), "flow__scale_tril_arr__0": torch.ones(5)},
            "768",
        ),
        (
            {"flow__mu_arr__0": torch.ones(DIM), "flow__scale_tril_arr__0": torch.ones(2, 2)},
            r"\(2, 2\)",
        ),
        (
            {
                "flow__mu_arr__0": torch.ones(DIM),
                "flow__scale_tril_arr__0": torch.ones(DIM, DIM).tril(),
            },
            "768, 768",
        ),
    ],
)
def test_gaussians_that_cannot_be_read(extra: dict[str, Tensor], message: str) -> None:
    state = released(**extra)["state_dict"]
    with pytest.raises(ValueError, match=message) as error:
        convert_state(state)
    assert "gaussians=False" in str(error.value)
    convert_state(state, gaussians=False)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"flow__blocks__0__0__extra__weight": torch.ones(1), "net__weight": torch.ones(1)},
            r"net\.weight$",
        ),
        (
            {"flow__blocks__0__0__couplinglayer__net__attention__qkv__weight": torch.ones(1)},
            "attention",
        ),
        (
            {"flow__blocks__0__5__actnorm__scale": torch.ones(12, 8, 8)},
            r"blocks\.0\.2.*blocks\.0\.5",
        ),
        ({"flow__blocks__0__1__actnorm__scale": torch.ones(1)}, "mismatch"),
        ({"flow__blocks__0__1__actnorm__scale": torch.full((12, 8, 8), torch.nan)}, "NaN"),
        ({"flow__blocks__0__0__actnorm__scale": torch.ones(1)}, "3-dimensional"),
    ],
)
def test_weights_that_fit_no_flow(extra: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(released(**extra)["state_dict"])


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="state_dict"):
        convert_checkpoint(save([1], tmp_path))
    with pytest.raises(ValueError, match="1 tensors"):
        convert_state({"a": torch.ones(1)})


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps(released()))
    with pytest.raises(CheckpointError, match=r"x\.ckpt"):
        convert_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        convert_checkpoint(tmp_path / "nothing.ckpt")
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(CheckpointError, match="regular"):
        convert_checkpoint(tmp_path / "pipe.ckpt")


def test_a_hostile_object_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # in a new interpreter
    content = released()
    content["callbacks"] = Attack(tmp_path / "ran")
    path = save(content, tmp_path)
    with pytest.raises(CheckpointError, match="system"):
        convert_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    # An ordinary load of the same file runs the command.
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_an_unknown_function_is_replaced_by_a_stub(tmp_path: Path) -> None:
    content = released()
    content["callbacks"] = Attack(tmp_path / "ran", shutil.copy2)
    converted = convert_checkpoint(save(content, tmp_path))
    assert "shutil.copy2" in converted.info["left_out"]
    assert not (tmp_path / "ran").exists()


# Hostile files: each must end in the documented error, soon and without much memory.


class Storage:
    """Pickled as a reference to a storage of the archive."""

    def __init__(self, key: Any = "0", numel: Any = 4) -> None:
        self.reference = ("storage", torch.FloatStorage, key, "cpu", numel)


class View:
    """Pickled as a tensor of any layout over a storage, as torch.save writes it."""

    def __init__(
        self, size: Any, stride: Any, offset: Any = 0, storage: Storage | None = None
    ) -> None:
        self.storage = Storage() if storage is None else storage
        self.layout = (offset, size, stride)

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.storage, *self.layout, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


def pickled(content: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.reference if isinstance(value, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def archive(
    folder: Path, data: bytes, storages: dict[str, bytes] | None = None, **options: Any
) -> Path:
    """A zip archive with the entries that torch.save writes."""
    path = folder / "hand.ckpt"
    entries = {"data.pkl": data, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": value for key, value in (storages or {}).items()}
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, value in entries.items():
            file.writestr(f"x/{name}", value)
    return path


def refused(path: Path, match: str = "cannot be read", **options: Any) -> None:
    with pytest.raises(CheckpointError, match=match):
        read_foreign(path, **options)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",  # REDUCE
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch {}'\ntR.",  # STACK_GLOBAL
        b'cbuiltins\neval\n(S\'__import__("os").system("touch {}")\'\ntR.',
    ],
)
def test_every_way_to_call_calls_nothing(code: bytes, tmp_path: Path) -> None:
    refused(archive(tmp_path, code.replace(b"{}", str(tmp_path / "ran").encode())))
    assert not (tmp_path / "ran").exists()


def test_layouts_inside_the_storage_are_read(tmp_path: Path) -> None:
    values = torch.arange(4.0)
    state = {"a": View((2, 2), (1, 2)), "b": View((0, 7), (1, 1))}
    path = archive(tmp_path, pickled({"state_dict": state}), {"0": values.numpy().tobytes()})
    tensors = read_foreign(path).tensors
    assert tensors["a"].tolist() == [[0, 2], [1, 3]]
    assert tensors["b"].shape == (0, 7)


@pytest.mark.parametrize(
    "view",
    [
        View((5,), (1,)),
        View((2,), (1,), 3),
        View((2**40,), (0,)),
        View((2**30,), (1,), 0, Storage(numel=2**30)),  # 4.3 GB
        View((2,), (1,), 0, Storage("../../etc")),
    ],
    ids=lambda view: str(view.layout),
)
def test_layouts_outside_the_storage_are_refused(view: View, tmp_path: Path) -> None:
    refused(archive(tmp_path, pickled({"state_dict": {"a": view}}), {"0": bytes(16)}))


def test_nested_tuples_do_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of a tuple that holds itself twice at each of 100 levels takes 2^100 steps."""
    monkeypatch.undo()  # in a new interpreter
    code = b"\x80\x02)" + b"".join(b"q%c" % n + b"h%c\x86" % n for n in range(100))
    start = time.monotonic()
    refused(archive(tmp_path, b"\x80\x02}" + code[2:] + b"K\x01s."), "limits", seconds=0.1)
    assert time.monotonic() - start < 60


def test_a_request_for_memory_is_refused(tmp_path: Path) -> None:
    """`bytearray(10**10)`, which torch's restricted unpickler allows."""
    code = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (10**10).to_bytes(5, "little") + b"\x85R."
    refused(archive(tmp_path, code), "MemoryError")


def test_many_views_of_one_storage_take_no_memory(tmp_path: Path) -> None:
    storage = Storage(numel=2**18)
    state = {f"v{n}": View((2**18,), (1,), 0, storage) for n in range(4000)}  # 4 GiB in all
    path = archive(tmp_path, pickled({"state_dict": state}), {"0": bytes(2**20)})
    refused(path, str(4000 * 2**20))


@pytest.mark.parametrize(("place", "value"), [(4, 99), (6, 1)])
def test_odd_versions_and_flags_of_the_archive(place: int, value: int, tmp_path: Path) -> None:
    """Version and encryption in every header: read in full or refused."""
    data = bytearray(save(released(), tmp_path).read_bytes())
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = data.find(mark)
        while at >= 0:
            data[at + place + shift] = value
            at = data.find(mark, at + 1)
    path = tmp_path / "odd.ckpt"
    path.write_bytes(data)
    try:
        found = read_foreign(path).tensors
    except CheckpointError:
        return
    state = released()["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "name", ["blocks.99999999999.0.actnorm.scale", "blocks.99999.0.actnorm.scale"]
)
def test_a_number_in_a_name_that_is_too_large(name: str) -> None:
    with pytest.raises(ValueError, match="9999"):
        convert_state(released(**{f"flow.{name}": torch.ones(12, 8, 8)})["state_dict"])


def test_names_reach_the_message_without_escapes(tmp_path: Path) -> None:
    path = save(released(**{"\x1b[31mred": torch.ones(1)}), tmp_path)
    with pytest.raises(CheckpointError, match="red") as caught:
        convert_checkpoint(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = save(released(), tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"released\.ckpt"):
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
