from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

import nfaug
from nfaug.cli import main
from nfaug.training import TrainConfig
from nfaug.training.report.environment import environment, save_environment
from nfaug.training.report.page import read_run, write_report

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '</title><script>alert(1)</script><img src="http://example.org/x.png">\x1b[31m\u202e'
LOG = (
    "epoch,step,seconds,train_bits_per_dim,lr,skipped_steps,images_per_second,bits_per_dim,nf_acc,nf_acc_top5\r\n"
    "1,100,10.0,9.25,0.001,0,610,9.5,0.25,0.75\r\n"
    "2,200,20.0,8.125,0.01,1,620,8.5,0.5,0.875\r\n"
    "3,300,40.0,7.5,0.005,1,640,7.75,0.625,1.0\r\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A running run: a log and settings."""
    made = tmp_path / "my run"
    made.mkdir()
    (made / "log.csv").write_text(LOG, newline="")
    settings = {"data": HOSTILE, **TrainConfig(lr=0.02).to_dict()}
    (made / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(settings))))
    save_environment(made, "cpu")
    return made


def finish(folder: Path, **changes: Any) -> None:
    """Add the files of a finished run that the page reads."""
    config = {
        "library_version": "0.1.0",
        "flow": nfaug.FlowConfig(channels=1, image_size=(8, 8), steps=(1,), blocks=(1,), width=(8,)
        ).to_dict(),
        "preprocessing": {"resize": None},
        "class_names": ["cat", HOSTILE],
        "gaussians": {"kind": "fpi", "kld_weight": 5000.0, "converged": True},
        "training": {"steps": 300, "images": 9500, "seconds": 41.0},
        "metrics": {"nf_acc": 0.625},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "README.md").write_text("# Card\n\n<script>alert(2)</script>\n")
    Image.new("RGB", (40, 20), "red").save(folder / "samples.png")
    (folder / "pictures").mkdir(exist_ok=True)
    Image.new("RGB", (30, 30), "blue").save(folder / "pictures" / "latents.png")


def page_of(folder: Path) -> ElementTree.Element:
    """The parsed page; checks that it is well-formed, fetches nothing and runs no script."""
    path = write_report(folder)
    assert path == folder.resolve() / "report.html"
    html = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(html)
    assert not {"script", "iframe", "link", "object"} & {node.tag for node in root.iter()}
    for node in root.iter():
        assert not [name for name in node.attrib if name.startswith("on")]
        for name in ("src", "href"):
            assert node.get(name, "#").startswith(("#", "data:image/"))
    assert "example.org" not in "".join(node.get("src", "") for node in root.iter())
    return root


def words(root: ElementTree.Element) -> str:
    return " ".join(" ".join(root.itertext()).split())


def test_a_running_run(folder: Path) -> None:
    root = page_of(folder)
    shown = words(root)
    for expected in (
        "my run",
        "Not finished.",
        "NF-Acc, held-out 62.5%",
        "bits/dim, held-out 7.750",
        "bits/dim, training 7.500",
        "skipped steps 1",
        "No pictures yet.",
        "Recorded when the checkpoint is written.",
        "prior.fixed_point.alpha 10",
        f"nfaug {nfaug.__version__}",
        f"torch {metadata.version('torch')}",
        "device cpu",
    ):
        assert expected in shown
    # Only settings that differ from the defaults are marked.
    marked = [row.findtext("th") for row in root.iter("tr") if row.get("class") == "marked"]
    assert marked == ["lr"]


def test_the_curves_hold_the_log(folder: Path) -> None:
    root = page_of(folder)
    figures = {
        figure.findtext("figcaption/h3"): figure
        for figure in root.iter("figure")
        if figure.get("class") == "curve"
    }
    assert list(figures) == [
        "bits per dimension",
        "NF-Acc",
        "learning rate",
        "skipped steps, cumulative",
        "training images per second",
    ]
    keys = {
        name: [" ".join("".join(key.itertext()).split()) for key in figure.iter("span")]
        for name, figure in figures.items()
    }
    assert keys["bits per dimension"] == ["training 7.5", "held-out, averaged weights 7.75"]
    assert keys["NF-Acc"] == ["top 1 0.625", "top 5 1"]
    assert keys["training images per second"] == ["images 640"]
    lines = [
        node
        for node in root.iter(f"{SVG}path")
        if "stroke: var(--s" in node.get("style", "") and "clip-path" in node.attrib
    ]
    assert [len(re.findall("[ML]", line.get("d", ""))) for line in lines] == [3] * 7
    table = next(table for table in root.iter("table") if table.get("class") == "log")
    assert [cell.text for cell in list(table)[-1]][:4] == ["3", "300", "40", "7.5"]


def test_a_finished_run(folder: Path) -> None:
    finish(folder)
    root = page_of(folder)
    shown = words(root)
    for expected in (
        "Finished.",
        "1 x 8 x 8",
        "kld weight 5000",
        "converged yes",
        "training images 9,500",
        "2 classes",
        "<script>alert(2)</script>",
    ):
        assert expected in shown
    pictures = {image.get("alt"): image.get("src", "") for image in root.iter("img")}
    assert list(pictures) == ["samples", "latents"]
    assert all(source.startswith("data:image/png;base64,") for source in pictures.values())
    assert [link.get("href") for link in root.iter("a")] == ["#card"]
    assert [node for node in root.iter("section") if node.get("id") == "card"]
    names = [item.text or "" for item in root.iter("li")]
    assert names[0] == "cat"
    assert names[1].startswith("</title><script>alert(1)</script>")
    assert "\x1b" not in names[1]
    assert "\u202e" not in names[1]


def test_a_checkpoint_of_an_earlier_run_does_not_count(folder: Path) -> None:
    for steps in (299, 301):
        finish(folder, training={"steps": steps})
        assert "Not finished." in words(page_of(folder))


def test_damaged_rows(folder: Path) -> None:
    with (folder / "log.csv").open("a") as log:
        log.write("x,y\n?\n4,400,50.0,nan\n")
    assert [row["step"] for row in read_run(folder).rows] == [100, 200, 300, 400]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", "{", "config.json is damaged (JSONDecodeError)"),
        ("config.json", "[" * 100_000, "config.json is damaged (RecursionError)"),
        ("config.json", "[]", "config.json is not a mapping"),
        ("train.yaml", "a: [", "train.yaml is damaged (ParserError)"),
        ("train.yaml", "text", "train.yaml is not a mapping"),
        ("environment.json", "\x00\xff", "environment.json is damaged (JSONDecodeError)"),
        ("log.csv", "a,b\n\r1,2" + 200_000 * "x", "log.csv is damaged (Error)"),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: str, problem: str) -> None:
    (folder / name).write_text(content)
    assert problem in words(page_of(folder))


def test_strange_values(folder: Path) -> None:
    """Any JSON and YAML values give a page."""
    finish(
        folder,
        flow={"channels": 10**400, "steps": "x"},
        class_names=[1, None, {"a": "\ud800"}],
        gaussians={"a": {"b": [[["deep"]], {"c": 1}]}, "nan": float("nan")},
        training={"steps": True, "images": 10**400},
        metrics=[],
    )
    laughs = "a: &a [x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (folder / "train.yaml").write_text(laughs + "self: &s {me: *s}\nlist: &l [*l, 2001-01-01]\n")
    shown = words(page_of(folder))
    assert "Not finished." in shown
    assert "self.me" in shown
    assert len(shown) < 20_000


def test_files_that_are_not_pictures_are_skipped(folder: Path) -> None:
    finish(folder)
    (folder / "pictures" / "page.png").write_text("<html>")
    (folder / "pictures" / "drawing.svg").write_text("<svg><script/></svg>")
    assert [*read_run(folder).pictures] == ["samples", "latents"]


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        write_report(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"train\.yaml"):
        write_report(tmp_path)
    (tmp_path / "log.csv").write_text("epoch,st")
    assert "The log is empty" in words(page_of(tmp_path))
    with pytest.raises(ValueError, match=r"\.html"):
        write_report(tmp_path, tmp_path / "page.pdf")


def test_the_environment_holds_no_user_or_host_name() -> None:
    found = environment("cpu")
    assert found["packages"]["nfaug"] == nfaug.__version__
    assert found["device"] == "cpu"
    text = json.dumps(found)
    for private in (os.uname().nodename, str(Path.home())):
        assert private not in text


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages" / "one.html"
    out.parent.mkdir()
    out.write_text("an older page")
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(out), "bytes": out.stat().st_size}
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in out.parent.iterdir()) == ["one.html"]
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_real_run(tiny_path: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_path, tmp_path / "flow")
    shown = words(page_of(folder))
    assert "Finished." in shown
    assert "3 classes" in shown
    assert "rank 3" not in shown
    assert "steps 6" in shown


def chromium() -> str:
    """Path of a browser; the rendering test fails without one."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, f"this test renders the page and needs one of {', '.join(names)} on the PATH"
    return found


@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders(folder: Path, tmp_path: Path, scheme: str) -> None:
    """A headless browser reports no error and paints curves and pictures; scripts stay inert."""
    finish(folder)
    browser = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
        "--enable-logging=stderr",
    ]
    url = write_report(folder).as_uri()
    picture = tmp_path / "page.png"
    shot = subprocess.run(
        [*browser, "--window-size=1200,2600", f"--screenshot={picture}", url],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in shot.stderr
    dom = subprocess.run(
        [*browser, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert dom.count("<svg") == 5
    assert "<script" not in dom
    assert re.search(r"<h1>my run</h1>", dom)
    with Image.open(picture) as shown:
        pixels = shown.convert("RGB")
        colours = {colour: count for count, colour in pixels.getcolors(2**24)}
    page, lines = {
        "light": ((252, 252, 251), [(31, 95, 158), (181, 83, 42)]),
        "dark": ((22, 24, 27), [(125, 180, 236), (231, 154, 112)]),
    }[scheme]
    assert colours[page] > 0.4 * pixels.width * pixels.height
    for line in lines:
        assert colours.get(line, 0) > 150, "the curves are painted in their colours"
    assert colours[(255, 0, 0)] >= 800, "samples.png, 40 x 20 red"
    assert colours[(0, 0, 255)] >= 900, "latents.png, 30 x 30 blue"
