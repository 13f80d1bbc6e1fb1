"""The tables of the documentation are those of the rows in lab/results."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import nfaug
from nfaug.compare import CompareConfig, CompareImages, Comparison
from nfaug.compare.cells import Cells
from nfaug.compare.figures import Gain
from nfaug.compare.images import Part

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = "docs/explanation/evidence.md"
DETAILS = "docs/explanation/evidence-details.md"
SCRATCH = "final/*-scratch"
#: Pages, and what they say, with braces as in lab/tables.md.
SENTENCES = [
    (EVIDENCE, "**NFA gained {final/*-scratch: NFA in pixels, mean} points in the mean"),
    (EVIDENCE, "RandAugment's is {final/*-scratch: RandAugment, mean},"),
    (EVIDENCE, "TrivialAugment's {final/*-scratch: TrivialAugment, mean},"),
    (EVIDENCE, "MixUp's {final/*-scratch: MixUp, mean} and"),
    (EVIDENCE, "CutMix's {final/*-scratch: CutMix, mean}."),
    (EVIDENCE, "One by one, NFA gained on {final/*-scratch: NFA in pixels, above} of 7 datasets,"),
    (EVIDENCE, "RandAugment on {final/*-scratch: RandAugment, above}, and neither lost on any."),
    (EVIDENCE, "After correction, NFA gained on {final-scratch: NFA in pixels, bold above},"),
    (EVIDENCE, "RandAugment on {final-scratch: RandAugment, bold above}, and"),
    (EVIDENCE, "NFA at p = 0.25 on {final-scratch: NFA in pixels at p = 0.25, bold above}."),
    (DETAILS, "{final/groceries-scratch: known} of the test photographs are"),
    (DETAILS, "in the earlier runs, below, {defaults/groceries-scratch: known} are."),
    (DETAILS, "here is {final/groceries-scratch: RandAugment, known} on the first kind and"),
    (DETAILS, "{final/groceries-scratch: RandAugment, new} on new varieties: hence"),
    (DETAILS, "{final/groceries-scratch: RandAugment, plain} in this run, and"),
    (DETAILS, "{defaults/groceries-scratch: RandAugment, plain} in the earlier one."),
    (DETAILS, "by {same-class: * over same-class mixup*, mean} in the mean"),
    (DETAILS, "was {tuned/cifar10-50: flow over same-class mixup, plain} above it"),
    ("docs/explanation/relatives.md", "by {same-class: * over same-class mixup*, mean} points in"),
    ("docs/explanation/which-augmentation.md", "NFA gained {final/*-scratch: NFA in pixels, mean}"),
    ("docs/explanation/which-augmentation.md", "RandAugment {final/*-scratch: RandAugment, mean};"),
    ("docs/index.md", "it gained {final/*-scratch: NFA in pixels, mean} points in the mean of 7"),
    ("docs/index.md", "RandAugment gained {final/*-scratch: RandAugment, mean}."),
    ("lab/results/final/README.md", "datasets is {final/*-scratch: NFA in pixels, mean}."),
    ("lab/results/ladder/README.md", "({ladder/groceries: none over frozen, plain})"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """The folder of the laboratory on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "lab"))
        yield


@pytest.fixture(scope="module")
def tables(lab: None) -> ModuleType:
    """lab/tables.py."""
    return importlib.import_module("tables")


def test_the_pages_show_the_figures_of_their_rows(tables: ModuleType) -> None:
    """`python lab/tables.py` repairs a page that does not."""
    count = 0
    for path in tables.PAGES:
        text = path.read_text(encoding="utf-8")
        assert tables.written(text) == text, path
        count += len(tables.TABLE.findall(text))
    assert count > 10


def test_every_table_is_shown(tables: ModuleType) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in tables.PAGES)
    assert {name for _, name, _ in tables.TABLE.findall(pages)} == set(tables.templates())


def test_the_numbers_of_the_first_page(tables: ModuleType) -> None:
    counts = {}
    means = {}
    bold = {}
    for row in ("NFA in pixels", "RandAugment"):
        counts[row] = tables.intervals(SCRATCH, row)["above"]
        means[row] = tables.in_tenths(*tables.mean_of(SCRATCH, row))
        bold[row] = tables.bold_intervals("final-scratch", row)["bold above"]
    worst, _, _ = tables.worst_of(SCRATCH, "NFA in pixels").partition(" ")
    tuned = tables.intervals("final/*-finetuned", "NFA in pixels")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in (
        f"gained {means['NFA in pixels']} points in the mean of 7 datasets, {worst} on the worst,",
        f"RandAugment gained {means['RandAugment']}, on hand signs "
        f"{tables.gain('final/signs-scratch', 'RandAugment')}.",
        f"nfaug gained on {counts['NFA in pixels']}, RandAugment on {counts['RandAugment']};",
        f"after correction, {bold['NFA in pixels']} and {bold['RandAugment']}.",
        f"nfaug gained on none and lost on {tuned['below']}.",
    ):
        assert words in text, words
    assert tuned["above"] == 0
    for network in ("scratch", "finetuned"):
        assert len(tables.files_of(f"final/*-{network}")) == 7


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_sentences_have_the_figures_of_their_rows(
    tables: ModuleType, page: str, sentence: str
) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert tables.filled(sentence) in text


def test_the_lines_in_which_nfa_is_above_randaugment(tables: ModuleType) -> None:
    counts = {"lines": 0, "above": 0, "below": 0}
    for table in ("tuned-scratch", "tuned-finetuned"):
        head, _, *lines = tables.templates()[table].splitlines()
        columns = [name.strip() for name in head.split("|")]
        for line in lines:
            cells = line.split("|")
            ours = tables.BRACED.findall(cells[columns.index("NFA")])
            others = tables.BRACED.findall(cells[columns.index("RandAugment")])
            if ours and others:
                gain = tables.gain(*ours[0], others[0][1])
                counts["lines"] += 1
                counts["above"] += gain.mean > gain.half
                counts["below"] += gain.mean < -gain.half
    text = " ".join((ROOT / DETAILS).read_text(encoding="utf-8").split())
    assert (
        "Over the {lines} lines of these two tables that have both, NFA was above RandAugment in "
        "{above} and below it in {below}".format(**counts)
    ) in text


def test_the_page_has_the_advice_of_the_demo(tables: ModuleType, tmp_path: Path) -> None:
    names = {line["augmentation"] for line in tables.lines_of("compare/demo")}
    cells = {name: tables.cells_of("compare/demo", name) for name in names}
    count = len(cells["none"][0].right)
    kept = Cells(tmp_path, {}, count)
    kept.update({(name, seed): cell for name in names for seed, cell in cells[name].items()})
    config = CompareConfig(
        methods="none,randaugment,nfa",
        per_class=10,
        augment="flip,crop",
        steps=400,
        seeds=5,
        device="cpu",
    )
    none = torch.zeros((count, 3, 32, 32), dtype=torch.uint8)
    part = Part(none, torch.arange(count) % 10, torch.empty(0))
    images = CompareImages([str(label) for label in range(10)], part, part, [""] * count, [])
    advice = Comparison(config, images, kept).advice()
    page = (ROOT / "docs" / "tutorials" / "does-it-help.md").read_text(encoding="utf-8")
    assert f'"{advice}"' in " ".join(page.split())


def test_another_figure_is_written_back(tables: ModuleType) -> None:
    text = "<!-- table: defaults-scratch -->\n\n| a |\n|---|\n| +9.9 ± 0.1 |\n\nBelow.\n"
    written = tables.written(text)
    assert "9.9 ± 0.1" not in written
    assert "| blood cells |" in written
    assert written.endswith("|\n\nBelow.\n")


def test_the_significant_gains_of_a_table(tables: ModuleType) -> None:
    """Holm: of p = 0.010, 0.013, 0.03 and 0.9, the first two are below 0.05 / 4 and 0.05 / 3."""
    gains = []
    for p in (0.03, 0.010, 0.9, 0.013):
        gain = Gain(0.0, 1.0, 0.5, 8)
        gains.append(gain._replace(mean=gain.half_at(p / 2)))
        assert tables.p_value(gains[-1]) == pytest.approx(p, rel=1e-6)
    assert tables.significant(gains) == [False, True, False, True]
    assert tables.p_value(Gain(0.0, 1.0, 0.0, 8)) == 1.0
    assert tables.p_value(Gain(-1e9, 1.0, 1.0, 8)) < 1e-10
    assert tables.p_value(Gain(5.0, math.inf, 1.0, 2)) == 1.0, "two seeds say nothing"


def test_intervals_are_counted_over_files(tables: ModuleType) -> None:
    """A row's name may have an equals sign, which is no condition on a column."""
    for row in ("NFA in pixels at p = 0.25", "CutMix"):
        gains = [tables.gain(f"defaults/{name}-scratch", row) for name in ("cells", "clothes")]
        above = sum(gain.mean > gain.half for gain in gains)
        below = sum(gain.mean < -gain.half for gain in gains)
        assert tables.intervals("defaults/c[el]*-scratch", row) == {"above": above, "below": below}
    assert above + below > 0
    assert tables.filled("{defaults/*-finetuned: MixUp, above}") == "5"


def test_the_order_of_test_images(tables: ModuleType, tmp_path: Path) -> None:
    """Clusters have the order in which a study opens a tar of these names."""
    with gzip.open(ROOT / "lab/manifests/grocery128.csv.gz", "rt", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file) if row["part"] == "test"]
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "PNG")
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for name in reversed(names):
            entry = tarfile.TarInfo(name)
            entry.size = len(image.getvalue())
            archive.addfile(entry, io.BytesIO(image.getvalue()))
    paths = nfaug.open_dataset(tmp_path / "some.tar").paths
    assert paths is not None
    varieties = [Path(path).stem.rpartition("_")[0] for path in paths]
    clusters = importlib.import_module("clusters")
    assert list(clusters.clusters_of("final/groceries-scratch").names) == varieties
    assert clusters.names_of("final/cells-scratch") is None


def test_gains_on_groceries_have_intervals_over_varieties(tables: ModuleType) -> None:
    names = ("final/groceries-scratch", "RandAugment")
    whole = tables.gain(*names)
    by_image = tables.gain_by_image(*names)
    assert whole.mean == by_image.mean
    assert whole.clusters == 41
    assert by_image.clusters == 0
    assert whole.half > 1.5 * by_image.half
    parts = [tables.gain_on(*names, known=known) for known in (True, False)]
    assert [part.clusters for part in parts] == [31, 10]
    share = 0.795
    assert share * parts[0].mean + (1 - share) * parts[1].mean == pytest.approx(whole.mean)
    filled = tables.filled("{final/groceries-scratch: RandAugment, by image}")
    assert filled == tables.in_tenths(by_image.mean, by_image.half)
    with pytest.raises(ValueError, match="no clusters"):
        tables.filled("{final/cells-scratch: RandAugment, new}")


def test_the_counts_by_the_intervals_of_the_protocol(tables: ModuleType) -> None:
    """The page of the frozen run says what is counted with an interval over photographs."""
    found = []
    for network, row, sign in (("scratch", "RandAugment", 1), ("finetuned", "NFA in pixels", -1)):
        gains = []
        for file in tables.files_of(f"final/*-{network}"):
            gains.append(tables.gain_by_image(f"final/{file.stem}", row))
        found.append(sum(sign * gain.mean > gain.half for gain in gains))
    assert found == [4, 2]
    text = " ".join((ROOT / "lab/results/final/README.md").read_text(encoding="utf-8").split())
    assert "by the protocol's intervals, over photographs, RandAugment gained on four" in text
    assert "by the protocol's intervals, on two." in text


def test_figures_over_files(tables: ModuleType) -> None:
    pattern = "defaults/c[el]*-scratch"
    means = []
    for name in ("cells", "clothes"):
        means.append(tables.gain(f"defaults/{name}-scratch", "CutMix").mean)
    mean, half = tables.mean_of(pattern, "CutMix")
    assert mean == pytest.approx(sum(means) / 2)
    assert half == pytest.approx(12.7062 * abs(means[0] - means[1]) / 2, rel=1e-4)
    assert tables.worst_of(pattern, "CutMix") == f"{min(means):+.1f} (cells)"
    bold = tables.bold_gains(tables.templates()["defaults-scratch"])
    signs = []
    for (file, name), found in bold.items():
        if name == "CutMix" and found:
            signs.append(tables.gain(file, name).mean > 0)
    assert tables.bold_intervals("defaults-scratch", "CutMix") == {
        "bold above": sum(signs),
        "bold below": len(signs) - sum(signs),
    }
    assert 0 < sum(signs) < len(signs)


def test_a_row_that_is_not_there(tables: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"no nothing\.csv"):
        tables.filled("| {nothing: rows} |")
    with pytest.raises(ValueError, match="NFA in color has 0 lines"):
        tables.filled("| {defaults/cells-scratch: NFA in color} |")


def test_the_picture_of_gains_shows_its_rows(tables: ModuleType) -> None:
    """`python lab/gains.py` repairs a picture that does not."""
    gains = importlib.import_module("gains")
    lines = gains.lines()
    assert gains.drawn(gains.PICTURE) == gains.text_of(lines)
    assert len(lines) == 18


def test_the_picture_of_the_fixed_point_shows_its_gaussians(lab: None, tmp_path: Path) -> None:
    """`python lab/separation.py` repairs a picture that does not."""
    separation = importlib.import_module("separation")
    data = separation.points()
    shown = separation.panels(data)
    assert separation.drawn(separation.PICTURE) == separation.text_of(shown)
    overlaps = [separation.nearest(gaussians) for gaussians in shown]
    assert overlaps[0] < overlaps[1] < overlaps[2]
    separation.draw(data, shown, tmp_path / "picture.png")
    assert separation.drawn(tmp_path / "picture.png") == separation.text_of(shown)
    assert separation.PICTURE.stat().st_size < 100_000


def test_the_picture_between_two_images_shows_what_the_flow_makes(lab: None) -> None:
    """`python lab/between.py` repairs a picture that does not."""
    between = importlib.import_module("between")
    lines = between.lines()
    made = between.sheet(lines)
    with Image.open(between.PICTURE) as picture:
        stored = np.asarray(picture.convert("RGB"), dtype=float)
    changes = np.abs(stored - np.asarray(made, dtype=float))
    assert changes.mean() < 3, "levels, of 256 colours"
    assert between.PICTURE.stat().st_size < 100_000
    (_, flow), (_, pixels) = lines[:2]
    assert torch.equal(flow[0], pixels[0])
    middle = flow[0].float().lerp(flow[4].float(), 0.5)
    assert (pixels[2] - middle).abs().mean() < 2, "half of each, but for what the axes leave out"
    assert (flow[2] - middle).abs().mean() > 4
