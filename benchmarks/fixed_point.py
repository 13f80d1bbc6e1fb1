"""Time, memory and convergence of the fixed point; prints Markdown tables.

    python benchmarks/fixed_point.py                    # all parts
    python benchmarks/fixed_point.py --part solve       # 100 classes, compared with the direct form
    python benchmarks/fixed_point.py --part scale       # 1,000 classes, compared with the products
    python benchmarks/fixed_point.py --part divergence --data cifar10-train.tar

Tables of `fit: both` have the two rules of the released kind: `released`, with the sum over classes
inside the spread, and `no_class_sum`. The direct form evaluates the equations as they are written,
with tensors of size K x K x d. The divergence table uses the latents of the images in --data under
a freshly initialised flow or, without --data, random statistics of similar size.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nfaug.classes.fixed_point import FixedPointConfig, FixedPointDivergence, solve
from nfaug.classes.fixed_point.rules import class_kernel
from nfaug.classes.gaussians import pairwise_kl
from nfaug.classes.statistics import ClassStatistics
from nfaug.data.open import open_dataset
from nfaug.flows.config import FlowConfig
from nfaug.flows.flow import Flow
from nfaug.flows.mef_config import MefConfig

WEIGHTS = (10, 50, 300, 3333)
# Of the means alone, no rule of the covariances matters.
FITS = (("means", "released"), ("both", "released"), ("both", "no_class_sum"))
BOUNDS = (0.1, 10.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["solve", "scale", "divergence", "all"]
    parser.add_argument("--part", choices=parts, default="all", help="which tables to print")
    parser.add_argument("--data", metavar="PATH", help="images for the divergence table")
    parser.add_argument("--per-class", type=int, help="use this many images of each class")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    parser.add_argument("--small", action="store_true", help="tiny sizes, as a quick check")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    scale = (20, 500) if options.small else (1000, 12288)
    if options.memory_of:
        print(peak_memory(*options.memory_of, *scale))
        return
    print(f"torch {torch.__version__}, {options.threads} threads, float64\n")
    if options.part in ("solve", "all"):
        solve_table(*((10, 100) if options.small else (100, 3072)))
    if options.part in ("scale", "all"):
        scale_table(*scale, small=options.small)
    if options.part in ("divergence", "all"):
        divergence_tables(options.data, options.per_class)


def synthetic(classes: int, dim: int) -> tuple[Tensor, Tensor]:
    """Class means and variances similar to those of CIFAR-10 under a freshly initialised flow."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(classes, dim, generator=generator, dtype=torch.float64).mul_(0.2)
    return means, torch.rand(classes, dim, generator=generator, dtype=torch.float64).add_(0.5)


# A whole solve, compared with the equations as printed.


def direct_step(
    m: Tensor, s: Tensor, mu: Tensor, v: Tensor, config: FixedPointConfig
) -> tuple[Tensor, Tensor]:
    """One update by a released rule, with tensors of size K x K x d."""
    c = config.weight(*m.shape)
    differences = mu[:, None] - mu[None]
    ratios = (v[:, None] + differences.square()) / v[None]
    kl = 0.5 * (ratios - 1 + v[None].log() - v[:, None].log()).sum(dim=2)
    kernel = class_kernel(kl.fill_diagonal_(0), alpha=config.alpha)
    precision = v.reciprocal().mean(dim=1)
    pull = kernel * precision[None] + kernel.T * precision[:, None]
    moves = (pull[:, :, None] * differences).sum(dim=1)
    means = m + c * v.mean(dim=1, keepdim=True) * moves
    if config.fit == "means":
        return means, v
    out, back = kernel[:, :, None], kernel.T[:, :, None]
    squares = differences.square()
    if config.update == "released":
        squares = squares.sum(dim=1)[None]
    spread = (back * (squares + v[None])).sum(dim=1)
    a = v * (1 + c * (out - back).sum(dim=1)) + c * spread
    b = s + c * v.square() * (out / v[None]).sum(dim=1)
    return means, (b / a).sqrt()


def direct_solve(m: Tensor, s: Tensor, config: FixedPointConfig) -> tuple[Tensor, Tensor, int]:
    mu, v = m, torch.ones_like(s) if config.fit == "means" else s
    iteration = 1
    while True:
        means, variances = direct_step(m, s, mu, v, config)
        moves = max((means - mu).norm(dim=1).max(), (variances - v).norm(dim=1).max())
        if moves <= config.tolerance or iteration == config.max_iterations:
            return mu, v, iteration
        mu = mu + config.damping * (means - mu)
        v = v * (variances / v) ** config.damping
        iteration += 1


def solve_table(classes: int, dim: int) -> None:
    print(f"A whole solve: K = {classes}, d = {dim}, weight 303, tolerance 0.1\n")
    print(
        "| fit | rule | iterations | nfaug, s | direct K x K x d, s | ratio | largest difference |"
    )
    print("|---|---|---|---|---|---|---|")
    data = synthetic(classes, dim)
    for fit, update in FITS:
        config = FixedPointConfig(fit=fit, kld_weight=303, update=update)
        seconds, result = best_of(3, lambda config=config: solve(*data, config))
        direct, (mu, v, iterations) = best_of(1, lambda config=config: direct_solve(*data, config))
        assert iterations == result.iterations
        difference = max(
            float((result.means - mu).abs().max() / mu.abs().max()),
            float((result.variances / v - 1).abs().max()),
        )
        print(
            f"| {fit} | {rule(config)} | {iterations} | {seconds:.3f} | {direct:.1f} | "
            f"{direct / seconds:.0f} | {difference:.0e} relative |",
            flush=True,
        )
    print()


def rule(config: FixedPointConfig) -> str:
    """The rule of the covariances, where they are fitted."""
    return "-" if config.fit == "means" else config.update


def best_of(times: int, function: Callable[[], object]) -> tuple[float, object]:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


# ImageNet's size, compared with the matrix products alone.


def scale_table(classes: int, dim: int, *, small: bool) -> None:
    one = classes**2 * dim * 8 / 1e9
    print(
        f"ImageNet's size: K = {classes}, d = {dim}, weight 303. The best of 5 "
        f"interleaved measurements each. The direct form needs {one:.0f} GB for one tensor.\n"
    )
    print("| fit | rule | iteration, s | its products alone, s | ratio | memory, GB |")
    print("|---|---|---|---|---|---|")
    data = synthetic(classes, dim)
    square = torch.rand(classes, classes, dtype=torch.float64)
    gram, product = torch.empty_like(square), torch.empty_like(data[0])

    def products(sums: int) -> None:
        for _ in range(2):  # (K, d) x (d, K), for the divergences
            torch.matmul(data[0], data[1].T, out=gram)
        for _ in range(sums):  # (K, K) x (K, d), for the sums over classes
            torch.matmul(square, data[0], out=product)

    for (fit, update), sums in zip(FITS, (1, 3, 4), strict=True):
        single, several, alone = [], [], []
        config = FixedPointConfig(fit=fit, kld_weight=303, update=update, tolerance=1e-12)
        for _ in range(5):
            single.append(iterations(data, config, 1))
            several.append(iterations(data, config, 5))
            start = time.perf_counter()
            products(sums)
            alone.append(time.perf_counter() - start)
        seconds, least = (min(several) - min(single)) / 4, min(alone)
        command = [sys.executable, __file__, "--memory-of", fit, update, "--threads"]
        command += [str(torch.get_num_threads())] + ["--small"] * small
        memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"| {fit} | {rule(config)} | {seconds:.3f} | {least:.3f} | {seconds / least:.2f} | "
            f"{memory:.2f} |",
            flush=True,
        )
    print("\nMemory is the peak beyond the inputs, measured in a process of its own.\n")


def iterations(data: tuple[Tensor, Tensor], config: FixedPointConfig, count: int) -> float:
    """Seconds of a solve with a fixed number of iterations."""
    start = time.perf_counter()
    solve(*data, replace(config, max_iterations=count))
    return time.perf_counter() - start


def peak_memory(fit: str, update: str, classes: int, dim: int) -> float:
    """Peak resident memory of a solve minus that of its inputs, in GB (Linux)."""
    data = synthetic(classes, dim)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    before = pages * os.sysconf("SC_PAGE_SIZE")
    config = FixedPointConfig(fit=fit, kld_weight=303, update=update, tolerance=1e-12)
    iterations(data, config, 3)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9


# Which settings converge.


def divergence_tables(data: str | None, per_class: int | None) -> None:
    if data is None:
        means, variances = synthetic(10, 3072)
        origin = "drawn at random (give --data for latents of real images)"
    else:
        means, variances = fresh_latents(data, per_class)
        origin = f"latents of {Path(data).name} under a freshly initialised flow"
    print(f"Convergence: {origin}; K = {len(means)}, d = {means.shape[1]}, alpha 10, forward")
    print("kernel, tolerance 0.1, at most 300 iterations. A cell gives the iterations and the")
    print("smallest and mean KL between classes, in nats; or the iteration at which the solve")
    print("diverged; or the last residual if it did not converge.\n")
    print(f"| fit | rule | weight | undamped | damping 1/2 | 1/2, variances in {BOUNDS} |")
    print("|---|---|---|---|---|---|")
    for fit, update in (
        ("both", "proposition1"),
        ("both", "released"),
        ("both", "no_class_sum"),
        ("covariances", "proposition1"),
        ("covariances", "released"),
        ("covariances", "no_class_sum"),
        ("means", "released"),
    ):
        for weight in WEIGHTS:
            cells = []
            for damping, bounds in ((1.0, None), (0.5, None), (0.5, BOUNDS)):
                config = FixedPointConfig(fit, weight, update=update, damping=damping)
                config = replace(config, variance_bounds=bounds)
                cells.append("-" if bounds and fit == "means" else cell(means, variances, config))
            print(f"| {fit} | {rule(config)} | {weight} | {' | '.join(cells)} |", flush=True)
    print("\nNearly equal means: K = 10, d = 200, weight 3333, fit means; means differ by eps.\n")
    print("| eps | undamped | damping 1/2 |")
    print("|---|---|---|")
    for eps in (1e-1, 1e-2, 1e-4, 1e-6):
        means, variances = synthetic(10, 200)
        cells = [
            cell(1 + eps / 0.2 * means, variances, FixedPointConfig(kld_weight=3333, damping=s))
            for s in (1.0, 0.5)
        ]
        print(f"| {eps:g} | {' | '.join(cells)} |")
    print()


def cell(means: Tensor, variances: Tensor, config: FixedPointConfig) -> str:
    try:
        result = solve(means, variances, config)
    except FixedPointDivergence as error:
        return f"**diverges** at {error.iteration}"
    assert result.means.isfinite().all()
    assert result.variances.isfinite().all()
    divergences = pairwise_kl(result.means, result.variances)
    pairs = divergences[~torch.eye(len(divergences), dtype=torch.bool)]
    kl = f"{float(pairs.min()):.3g}/{float(pairs.mean()):.3g}"
    if result.converged:
        return f"{result.iterations}: {kl}"
    return f"**not converged**, residual {result.residual:.2g}: {kl}"


@torch.no_grad()
def fresh_latents(data: str, per_class: int | None) -> tuple[Tensor, Tensor]:
    """Class means and variances of images under a small flow after data-dependent init."""
    images = open_dataset(data, per_class=per_class)
    torch.manual_seed(0)
    batches = torch.utils.data.DataLoader(images, batch_size=500, shuffle=True)
    pixels, labels = map(torch.cat, zip(*batches, strict=True))
    config = FlowConfig(
        channels=pixels.shape[1],
        image_size=tuple(pixels.shape[2:]),
        backbone=MefConfig(steps=(4, 4), blocks=(1, 1), width=(32, 32)),
    )
    flow = Flow(config)
    flow.initialize((pixels[:500] + torch.rand(pixels[:500].shape)) / 128 - 1)
    found = ClassStatistics(len(images.classes), config.dim)
    for part, y in zip(pixels.split(500), labels.split(500), strict=True):
        noise = torch.rand(len(part), *flow.config.shape)
        found.update(flow.encode(part, noise)[0], y)
    return found.finalize()[1:]


if __name__ == "__main__":
    main()
