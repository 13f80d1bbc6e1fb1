"""`nfaug timm` around timm's own train.py, with one flag after the other."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from tools import nfa

import nfaug
from nfaug.integrations.timm import run_script

from .outcomes import Outcomes, is_refusal, message

BASE = (
    "--model test_resnet --num-classes 3 --img-size 32 --epochs 1 --warmup-epochs 0 --batch-size 4 "
    "--workers 0 --device cpu --lr 0.01 --checkpoint-hist 1 --data-dir {data} --output {out}"
)
# Beside what a flag means nothing without.
MIXUP = "--mixup 0.8"
SIZES = "--train-img-sizes 32 48"
NAFLEX = "--naflex-loader"
GROUPS = {
    "Dataset parameters": """
        --data-dir {data} | --dataset torch/image_folder | --train-split train
        --val-split validation | --train-num-samples 12 | --val-num-samples 6
        --class-map {data}/classes.txt | --input-img-mode RGB | --input-key image
        --target-key label | --dataset-download | --dataset-trust-remote-code""",
    "Model parameters": """
        --num-classes 3 | --img-size 48 | --in-chans 1 | --input-size 3 32 32 | --crop-pct 0.9
        --mean 0.5 0.5 0.5 | --std 0.25 0.25 0.25 | --interpolation bilinear | --batch-size 6
        --validation-batch-size 3 | --channels-last | --grad-accum-steps 2""",
    "Augmentation and regularization parameters": f"""
        --no-aug | --train-crop-mode rkrc | --scale 0.5 1.0 | --ratio 0.9 1.1 | --hflip 0.3
        --vflip 0.3 | --color-jitter 0.3 | --color-jitter-prob 0.5 | --grayscale-prob 0.3
        --gaussian-blur-prob 0.3 | --aa rand-m5 | --aug-repeats 3 | --aug-splits 2
        --jsd-loss --aug-splits 2 | --bce-loss | --bce-sum --bce-loss
        --bce-target-thresh 0.2 --bce-loss | --bce-pos-weight 2 --bce-loss | --reprob 0.5
        --remode const --reprob 0.5 | --recount 2 --reprob 0.5 | --resplit --reprob 0.5
        {MIXUP} | --cutmix 1.0 | --cutmix-minmax 0.2 0.8 | --mixup-prob 0.5 {MIXUP}
        --mixup-switch-prob 0.5 --cutmix 1 {MIXUP} | --mixup-mode pair {MIXUP}
        --mixup-mode elem {MIXUP} | --mixup-mode half {MIXUP}
        --mixup-off-epoch 1 --epochs 2 {MIXUP} | --smoothing 0.2 | --train-interpolation bicubic
        --drop 0.1 | --drop-connect 0.1 | --drop-path 0.1 | --drop-block 0.1""",
    "Miscellaneous parameters": f"""
        --seed 1 | --worker-seeding part --workers 1 | --workers 1 | --save-images --log-interval 1
        --pin-mem | --no-prefetcher | --no-prefetcher {MIXUP} | --tta 2 | --use-multi-epochs-loader
        {SIZES} | --train-batch-sizes 4 2 {SIZES} | --train-size-probs 0.5 0.5 {SIZES}
        --train-size-schedule progressive {SIZES} | --train-size-schedule-spread 0.5 {SIZES}
        --train-size-random-mix 0.2 {SIZES} | --train-batches-per-epoch 2 {SIZES}
        --variable-batch-loss-scale sqrt {SIZES} | {NAFLEX} | --naflex-train-seq-lens 16 {NAFLEX}
        --naflex-max-seq-len 16 {NAFLEX} | --naflex-patch-sizes 8 {NAFLEX}
        --naflex-patch-size-probs 1.0 {NAFLEX} | --naflex-loss-scale none {NAFLEX}
        --naflex-patchify-channels-first {NAFLEX}""",
}


def run(checkout: Path) -> Outcomes:
    """The outcomes of the flags that the checkout's train.py has."""
    script = checkout / "train.py"
    known = dict(options_of(script))
    outcomes = Outcomes()
    tried = set()
    with tempfile.TemporaryDirectory() as folder:
        data = nfa.write_images(Path(folder) / "data", 32, train=4, validation=2)
        (data / "classes.txt").write_text("\n".join(nfa.NAMES))
        checkpoint = nfaug.fit("builtin:pixels", str(data / "train"), progress=False)
        for case in cases():
            flag, *_ = case.split()
            if flag not in known:
                outcomes.notes.append(f"This train.py has no {flag}.")
                continue
            tried.add(flag)
            words = f"{BASE} {case}".format(data=data, out=Path(folder) / "out").split()
            _add(outcomes, case, script, words, nfaug.NFAugment(checkpoint, p=1.0, gate=None))
            print(case, file=sys.stderr, flush=True)
    # Errors name the folder, which is another one in each run.
    outcomes.other = {case: text.replace(folder, "...") for case, text in outcomes.other.items()}
    left = [flag for flag, group in known.items() if group in GROUPS and flag not in tried]
    outcomes.notes.append(f"Flags of the same groups that have no case: {', '.join(left)}.")
    return outcomes


def cases() -> Iterator[str]:
    """A flag with its values, and with those flags that it means nothing without."""
    for text in GROUPS.values():
        for line in text.strip().splitlines():
            yield from (case.strip() for case in line.split("|"))


def options_of(script: Path) -> Iterator[tuple[str, str]]:
    """Each flag of the script's groups of options with the group's title, from its text."""
    title = ""
    for statement in ast.parse(script.read_text()).body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            names = [str(word.value) for word in node.args if isinstance(word, ast.Constant)]
            options = [name for name in names if name.startswith("--")]
            if node.func.attr == "add_argument_group":
                title = names[0]
            elif options and ast.unparse(node.func) == "group.add_argument":
                yield options[0], title


def _add(
    outcomes: Outcomes, case: str, script: Path, words: Sequence[str], nfa: nfaug.NFAugment
) -> None:
    """Run the script with NFA; where it fails for another reason than nfaug's, also without."""
    error = _error_of(lambda: run_script(script, words, nfa))
    if error is None and not nfa.stats()["seen"]:
        outcomes.other[case] = "NFA saw no image"
    elif error is None or is_refusal(error):
        outcomes.add(case, error)
    else:
        plain = _error_of(lambda: _run_plain(script, words))
        where = "timm itself" if plain is not None else "timm with NFA alone"
        outcomes.other[case] = f"fails in {where}: {type(error).__name__}: {message(error)}"


def _run_plain(script: Path, words: Sequence[str]) -> None:
    search_path = [str(script.parent), *sys.path]
    argv = [str(script), *words]
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", search_path):
        runpy.run_path(str(script), run_name="__main__")


def _error_of(call: Callable[[], object]) -> BaseException | None:
    """The error of a call, or None; what it prints and logs is dropped."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()
    except SystemExit as end:
        return end if end.code else None
    except Exception as error:
        return error
    finally:
        logging.getLogger().handlers.clear()
    return None
