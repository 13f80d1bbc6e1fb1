"""Training of a flow from images to a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from nfaug.checkpoint.checkpoint import Checkpoint, load
from nfaug.data.classes import dataset_classes
from nfaug.data.images import Images
from nfaug.data.open import open_dataset
from nfaug.data.view import Wanted
from nfaug.fitting.classes import fit_classes
from nfaug.fitting.config import FitConfig
from nfaug.flows.codec import check_levels
from nfaug.flows.mef_config import MefConfig
from nfaug.io.numbers import as_size
from nfaug.io.progress import progress_bar

from .config import TrainConfig
from .context import RunContext, TrainResult, open_context
from .loop import Loop
from .metrics import evaluate
from .reporter import Reporter
from .run import Run
from .snapshots import RunState


def train(
    data: Dataset[Any],
    out: str | Path | None = None,
    *,
    config: TrainConfig | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    test_data: Dataset[Any] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train a flow on a dataset of (image, label), by maximum likelihood (paper, Eq. 2).

    The paper is https://hal.science/hal-04767310v1. The flow is trained under one Gaussian per
    class. `config.prior` says how the Gaussians are solved, and when: once, after a first epoch
    under those of the data, as in the paper's released configurations, or also on the untrained
    flow; then they stay fixed. A step whose loss or gradient is not finite is
    skipped; after 20 in a row the run rolls back to its last saved state and halves the learning
    rate. A class of one image gets the mean variance of the other classes, no axes and no partner,
    with a warning.

    On one machine's CPU the same seed and number of threads give the same weights. Under
    `torchrun` or `accelerate launch` every process calls this with the same arguments; they share
    each batch, so the result is that of one process up to rounding.

    Args:
        data: Images as `nfaug.open_dataset` takes them; labels 0..K-1. Data that fit in
            memory are read once, so random transforms of the dataset are drawn once, and such a
            run cannot be resumed: use `config.augmentation`.
        out: Where the log, snapshots, pictures and TensorBoard's files go; all processes must see
            it. SIGINT and SIGTERM then save the state first. Without it nothing is written.
        config: The settings.
        checkpoint: Start from the flow of this checkpoint, or of its name or folder, instead of a
            new one. It fixes the flow's shape; the class Gaussians are solved again.
        test_data: Images to evaluate on; by default a share of each class is held out.
        resume: Resume from the newest snapshot in `out`, if there is one. On a CPU the result is
            bit for bit that of an uninterrupted run, unless `max_minutes` is set, which makes the
            learning rate follow the clock. Without it, snapshots of an earlier run are deleted.
        progress: Show bars, or log lines where standard error is no terminal.

    Returns:
        The trained checkpoint and its history.

    Raises:
        ValueError: If the dataset is empty, a class has no image, `test_data` has other classes or
            another shape, or the snapshots in `out` are damaged or of another run.
        FixedPointDivergence: If the class Gaussians cannot be found with these settings.
        TrainingDiverged: If steps are still not finite after 3 rollbacks.
        Interrupted: After SIGINT or SIGTERM; a KeyboardInterrupt. The state is saved first.
        OSError: If another process writes to `out`.
        RunStopped: If files cannot be read or written, or another process ended.
        ModuleNotFoundError: If a library of the extra `train` is missing.

    Example:
        >>> from nfaug import open_dataset
        >>> from nfaug.training import TrainConfig, train
        >>> digits = open_dataset("digits", per_class=20)
        >>> result = train(digits, config=TrainConfig(epochs=1), progress=False)
        >>> result.checkpoint.pca.num_classes
        10
    """
    config = config or TrainConfig()
    path = None if out is None else Path(out).expanduser()
    with Run.open(path, config, resume=resume) as run:
        if isinstance(checkpoint, str | Path) and run.resumes:  # it has a copy
            checkpoint = run.snapshots.initial(config.autoencoder)
        elif isinstance(checkpoint, str | Path):
            checkpoint = load(checkpoint, autoencoder=config.autoencoder, gaussians=False)
        return train_run(
            run, data, config, checkpoint=checkpoint, test_data=test_data, progress=progress
        )


def train_run(
    run: Run,
    data: Dataset[Any],
    config: TrainConfig,
    *,
    checkpoint: Checkpoint | None = None,
    test_data: Dataset[Any] | None = None,
    words: Mapping[str, Any] | None = None,
    source: Mapping[str, str] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train in a run that is open. Arguments and errors are those of `train`, besides:

    Args:
        run: The run.
        words: What `nfaug train` was given besides the settings, which are then saved.
        source: What the checkpoint says of where the images and the first flow are from.
    """
    ranks = run.ranks
    with warnings.catch_warnings():
        size = config.dataset.image_size
        wanted = Wanted(config.dataset.channels, None if size is None else as_size(size))
        images = open_dataset(data, progress=progress).suited(wanted, progress=progress)
        config = config.for_images(len(images))
        if not ranks.main:  # every process would repeat the same warnings
            warnings.simplefilter("ignore")
        if checkpoint is not None:
            config = _config_of(checkpoint, config, images)
        start = checkpoint
        if run.resumes:
            start = run.snapshots.initial(config.autoencoder)
        flow = None if start is None else start.flow
        test_images = None
        if test_data is not None:
            names = dataset_classes(test_data)
            if names is None or dataset_classes(data) is None:  # there are none to compare
                names = images.classes
            test_images = open_dataset(test_data, classes=names, progress=progress)
            if not images.has_stored_size:  # those to test on are then resized to the same size
                wanted = Wanted(wanted.channels, images.image_size)
            test_images = test_images.suited(wanted, progress=progress)
        context = open_context(
            images, config, ranks, flow, test_images=test_images, progress=progress
        )
        run.snapshots.expect(context.fixed())
        with run.stopped_from_outside():
            snapshot = run.snapshots.newest() if run.resumes else None
            if snapshot is not None:
                config = _as_it_began(config, snapshot.facts)
                context.config = config
            run.begin(config, words)
            if flow is not None and snapshot is not None:
                state = context.resume(flow, snapshot)
            else:
                state = context.start(flow or context.new_flow())
                with progress_bar(None, "saving the state", shown=context.shown):
                    initial = context.checkpoint(state.optimizer.average, state)
                    base = None if start is None else start.source
                    run.snapshots.save_initial(initial, config.autoencoder, base)
                    run.snapshots.save(state.snapshot())
            reporter = Reporter(context, run.out)
            try:
                reporter.start(state)
                Loop(run, context, state, reporter).train()
                result = _finish(context, state, source or {})
            finally:
                reporter.close()
            ranks.wait()
    return result


def _config_of(checkpoint: Checkpoint, config: TrainConfig, images: Images) -> TrainConfig:
    """The settings of a run that starts from another flow, which fixes shape and noise."""
    codec = checkpoint.flow.codec
    backbone: Any = checkpoint.flow.config.backbone
    if not list(checkpoint.flow.parameters()):
        raise ValueError(
            "the flow of checkpoint (--checkpoint) has no parameters to train: leave it out"
        )
    image, _ = images[0]
    check_levels(image[None], codec.channels, codec.image_size)
    if config.autoencoder is not None and codec.record is None:
        raise ValueError(
            "the flow of checkpoint works on pixels: leave out autoencoder, or start from a flow "
            "on its latents"
        )
    if config.flow not in (backbone, MefConfig()):
        warnings.warn(
            "checkpoint has its own architecture; settings flow.* are ignored", stacklevel=4
        )
    latent_noise = config.latent_noise if codec.record is None else codec.record.noise
    return replace(config, flow=backbone, latent_noise=latent_noise)


def _as_it_began(config: TrainConfig, facts: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run that goes on; a run of an earlier nfaug keeps its schedule and rule.

    Args:
        config: The settings.
        facts: Those of its newest snapshot. The record of an earlier nfaug names no `schedule`,
            which was "twice", and no `rules_version` (see `read_record`).

    Raises:
        ValueError: Its isotropic step of the means is one that this nfaug does not have.
    """
    record = facts["prior"]
    if "schedule" in record:
        return config
    prior = replace(config.prior, schedule="twice")
    config = replace(config, prior=prior)
    settings = prior.fixed_point
    if prior.kind != "fpi" or settings.fit == "means" or "rules_version" in record:
        return config  # for the means all rules are the same
    over = facts["finished"] and facts["refitted"] >= prior.refit_epoch
    if settings.fit == "both" and settings.isotropic_mean_step and not over:
        raise ValueError(
            "this run of an earlier nfaug fits means and variances with an isotropic step that "
            "divides by the mean of the variances; it is now the mean of their inverses, as the "
            "authors have it. Finish the run with the version that began it, or start a new one"
        )
    if settings.update != "released":
        return config
    warnings.warn(
        "this run is of an earlier nfaug, whose rule 'released' is now named 'no_class_sum': it "
        "goes on under that rule. For the authors' rule, which 'released' is now, start a new run",
        stacklevel=4,
    )
    settings = replace(settings, update="no_class_sum")
    return replace(config, prior=replace(prior, fixed_point=settings))


def _finish(context: RunContext, state: RunState, source: Mapping[str, str]) -> TrainResult:
    """Evaluate the averaged flow, fit PCA, and put the checkpoint together."""
    optimizer = state.optimizer
    config = context.config
    flow = optimizer.average.eval()
    flow.configure_training()  # it is used in float32, also where gradients are recorded
    training: dict[str, Any] = {
        "images": len(context.data.targets),
        "images_sha256": context.fingerprint,
        "epochs": state.history[-1]["epoch"],
        "steps": optimizer.steps,
        "seconds": round(state.elapsed, 1),
        "skipped_steps": optimizer.skipped,
        "rollbacks": state.rollbacks,
        "skipped_files": len(context.dataset.skipped),
        "batch_size": config.batch_size,
        "processes": context.ranks.count,
        "lr": config.lr,
        "noise": config.augmentation.noise,
        "seed": config.seed,
        **source,
    }
    metrics: dict[str, Any] = {}
    if context.test is not None:
        metrics = evaluate(
            flow,
            state.gaussians,
            context.test,
            round_trip=context.codec is None,  # latents come without the pixels to compare with
            progress=context.shown,
            ranks=context.ranks,
        )
        metrics["on"] = "held-out images"
    checkpoint = context.checkpoint(flow, state, training=training, metrics=metrics)
    if context.classes:
        fitted = fit_classes(
            flow,
            context.data,
            context.classes,
            FitConfig(**asdict(config.pca), seed=config.seed),
            ranks=context.ranks,
            everywhere=False,
            progress=context.shown,
        )
        if fitted is not None:  # only the main process saves
            checkpoint.pca = fitted.pca
    return TrainResult(checkpoint, state.history, state.losses)
