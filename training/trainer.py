"""Training of a flow from images to a checkpoint."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from nfaug.checkpoint.checkpoint import Checkpoint
from nfaug.data.open import wrap_dataset
from nfaug.fitting import check_images, fit_classes
from nfaug.io.lock import lock_output

from .config import FlowSettings, LatentConfig, TrainConfig
from .evaluation.metrics import evaluate
from .report.environment import save_environment
from .run.context import RunContext, TrainResult, open_context
from .run.distributed import Processes
from .run.interruption import stopped_from_outside
from .run.latent_cache import open_codec
from .run.loop import Loop
from .run.reporter import Reporter
from .run.snapshots import FolderStates, MemoryStates, RunState, Snapshot, States

__all__ = ["shape_of", "train"]


def train(
    dataset: Dataset[Any],
    config: TrainConfig | None = None,
    *,
    val: Dataset[Any] | None = None,
    init: Checkpoint | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    pictures: bool = False,
    progress: bool = True,
    processes: Processes | None = None,
    begin: Callable[[], None] | None = None,
) -> TrainResult:
    """Train a flow on a data set of (image, label), by maximum likelihood (paper, Eq. 2).

    The flow is trained under one gaussian per class. `config.prior` says how the gaussians are
    solved: after the data-dependent initialisation and again after the first epoch, then fixed. A
    step whose loss or gradient is not finite is skipped and counted; after `optim.max_bad_steps` in
    a row the run rolls back to its last saved state and halves the learning rate.

    A class of one image gets the mean variance of the other classes, no axes and no partner, with
    a warning: `NFAugment` leaves its images unchanged.

    On one machine's CPU the same seed gives the same weights. torch's global generators are left
    unchanged. Under `accelerate launch` or `torchrun` every process calls this with the same
    arguments; a batch is shared by all of them, so the result is that of one process up to
    rounding.

    Args:
        dataset: Images as `nfaug.training.wrap_dataset` takes them; labels 0..K-1. Data that fit in
            memory are read once, so random transforms of the data set are drawn once: use
            `config.augmentation`.
        config: The settings.
        val: Images to evaluate on; by default a share of each class is held out.
        init: Start from this flow instead of a new one. It fixes the flow's shape; the class
            gaussians are solved again.
        folder: Where the log, snapshots, pictures and trackers' files go; all processes must see
            it. SIGINT, SIGTERM and SIGHUP then save the state first. Without it nothing is written.
        resume: Resume from the newest snapshot in `folder`, if there is one. On a CPU the result is
            bit for bit that of an uninterrupted run, unless `max_minutes` is set, which makes the
            learning rate follow the clock.
        pictures: Also draw the pictures of the finished run.
        progress: Show bars, or log lines where standard error is no terminal.
        processes: The process group; by default taken from the environment.
        begin: Called on the main process after all arguments are checked and before anything is
            written.

    Returns:
        The trained checkpoint and its history.

    Raises:
        ValueError: If the data set is empty, a class has no image, `val` has other classes or
            another shape, or a snapshot is damaged or of another run.
        FixedPointDivergence: If the class gaussians cannot be found with these settings.
        TrainingDiverged: If steps are not finite after `optim.max_rollbacks` rollbacks.
        Interrupted: After SIGINT, SIGTERM or SIGHUP; a KeyboardInterrupt. The state is saved first.
        OSError: If another process writes to `folder`.
        RunStopped: If files cannot be read or written, or another process ended.

    Example:
        >>> from nfaug.training import TrainConfig, open_dataset, train
        >>> digits = open_dataset("digits", per_class=20)
        >>> result = train(digits, TrainConfig(epochs=1), progress=False)
        >>> result.checkpoint.save("digits-flow")  # doctest: +SKIP
    """
    images = wrap_dataset(dataset)
    config = (config or TrainConfig()).for_images(len(images))
    path = None if folder is None else Path(folder).expanduser()
    if processes is None:
        processes = Processes(config.device, config.trackers if path is not None else (), path)
    lock = contextlib.nullcontext() if path is None else lock_output(path)
    with warnings.catch_warnings(), lock:
        if not processes.main:  # every process would repeat the same warnings
            warnings.simplefilter("ignore")
        if init is not None:
            config = replace(config, flow=shape_of(init, config.flow))
            check_images(init.flow, images)
            if config.autoencoder is not None and init.flow.codec.record is None:
                raise ValueError(
                    "the flow of init works on pixels: leave out autoencoder, or start from a flow "
                    "on its latents"
                )
            record = init.flow.codec.record
            if record is not None and config.latents.noise not in (
                record.noise,
                LatentConfig().noise,
            ):
                warnings.warn(
                    f"the initial flow fixes the noise on latents at {record.noise:g}; the setting "
                    "latents.noise is ignored",
                    stacklevel=2,
                )
        begun = None
        if resume and path is not None and FolderStates(path).steps():
            begun = FolderStates(path).initial(config.autoencoder)
        # A flow on latents keeps the scale that it was initialised with.
        given = init if begun is None else begun
        codec = open_codec(images, config, processes.device) if given is None else given.flow.codec
        context = open_context(images, config, processes, codec, val=val, progress=progress)
        if begun is not None and init is None and begun.flow.config != context.shape()[0]:
            raise ValueError(
                f"the run in {path} trains {begun.flow.config}, and the settings now ask for "
                f"{context.shape()[0]}. A resumed run must keep the flow's shape"
            )
        states = _states(context, path)
        snapshot = states.newest() if begun is not None else None
        if snapshot is not None:
            _check_settings(context, snapshot)
        if snapshot is None and isinstance(states, FolderStates):
            states.clear()  # before new settings are saved beside old snapshots
        if begin is not None and processes.main:
            begin()
        if begun is not None and snapshot is not None:
            try:
                state, initial = _resume(context, begun, snapshot), begun
            except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
                assert isinstance(states, FolderStates)
                raise states.unusable(error) from None
        else:
            state, initial = _start(context, states, init)
        if path is not None and processes.main:
            save_environment(path, processes.device)
        reporter = Reporter(context, path)
        try:
            reporter.start(state)
            Loop(context, state, states, reporter).run()
            with stopped_from_outside(states, processes):
                result = _finish(context, state, initial)
                if pictures and processes.main:
                    from .run.pictures import figure_image, run_figures

                    figures = run_figures(result, context.dataset)
                    drawn = {name: figure_image(figure) for name, figure in figures.items()}
                    reporter.show(drawn, state.optimizer.steps)
        finally:
            reporter.close()
        with stopped_from_outside(states, processes):
            processes.wait()
    return result


def shape_of(init: Checkpoint, requested: FlowSettings) -> FlowSettings:
    """The settings of an existing flow; warns if `requested` asks for others."""
    config = init.flow.config
    names = FlowSettings.__dataclass_fields__
    shape = FlowSettings(**{name: getattr(config, name) for name in names})
    if requested not in (shape, FlowSettings()):
        warnings.warn(
            "the initial flow fixes the flow's shape; the settings flow.* are ignored",
            UserWarning,
            stacklevel=3,
        )
    return shape


def _states(context: RunContext, path: Path | None) -> States:
    if path is None:
        return MemoryStates()
    return FolderStates(
        path,
        context.config.keep_checkpoints,
        context.dataset.fingerprint(),
        {
            "batch_size": context.config.batch_size,
            "seed": context.config.seed,
            "images to train on": len(context.data.labels),
        },
        contents=context.dataset.contents_hash(),
        writer=context.processes.main,
    )


def _check_settings(context: RunContext, snapshot: Snapshot) -> None:
    """Check settings that a resumed run cannot change, before the new ones are saved."""
    config, codec = context.config, context.codec
    prior = snapshot.facts.get("prior")
    begun = prior.get("kind") if isinstance(prior, dict) else None  # a damaged state is seen later
    if begun not in (None, config.prior.kind):
        raise ValueError(
            f"the run has class gaussians of the kind {begun!r}, and the settings now ask for "
            f"{config.prior.kind!r}. A resumed run must keep prior.kind"
        )
    record = None if codec is None else codec.record
    # A run that began with `init` has the noise of that flow, and the default in its settings.
    if record is not None and config.latents.noise not in (record.noise, LatentConfig().noise):
        raise ValueError(
            f"the run has latents.noise {record.noise:g}, and the settings now ask for "
            f"{config.latents.noise:g}. A resumed run must keep it"
        )


def _resume(context: RunContext, begun: Checkpoint, snapshot: Snapshot) -> RunState:
    state = context.resume(begun.flow, snapshot)
    # A finished run continues if the settings now ask for more epochs or time.
    done = state.optimizer.steps >= context.config.epochs * context.steps_per_epoch
    timed = context.config.max_minutes is not None
    state.finished = state.finished and (
        done or (timed and state.elapsed >= 60 * (context.config.max_minutes or 0))
    )
    return state


def _start(
    context: RunContext, states: States, init: Checkpoint | None
) -> tuple[RunState, Checkpoint]:
    """Create and save the state of a new run; also return its initial flow."""
    flow = context.new_flow() if init is None else init.flow
    state = context.start(flow)
    device = context.processes.device
    initial = context.checkpoint(copy.deepcopy(state.optimizer.flow).to(device).eval(), state)
    if isinstance(states, FolderStates):
        states.save_initial(initial)
    states.save(state.snapshot())
    return state, initial


def _finish(context: RunContext, state: RunState, initial: Checkpoint) -> TrainResult:
    """Evaluate the averaged flow, fit PCA, and put the checkpoint together."""
    optimizer, config = state.optimizer, context.config
    flow = optimizer.average.eval()
    training = {
        "images": len(context.data.labels),
        "epochs": state.history[-1]["epoch"],
        "steps": optimizer.steps,
        "seconds": round(state.elapsed, 1),
        "skipped_steps": optimizer.skipped,
        "rollbacks": state.rollbacks,
        "skipped_files": len(context.dataset.skipped),
        "batch_size": config.batch_size,
        "processes": context.processes.count,
        "lr": config.lr,
        "noise": config.augmentation.noise,
        "seed": config.seed,
    }
    metrics: dict[str, Any] = {}
    if context.val is not None:
        metrics = evaluate(
            flow,
            state.gaussians,
            context.val,
            # Cached latents come without the pixels to compare with.
            round_trip=context.codec is None or not config.latents.cache,
            progress=context.shown,
            processes=context.processes,
        )
        metrics["on"] = f"{metrics.pop('images')} held-out images"
    checkpoint = context.checkpoint(flow, state, training=training, metrics=metrics)
    if context.classes and context.processes.main:
        _, checkpoint.pca = fit_classes(
            flow,
            context.data,
            context.classes,
            **asdict(config.pca),
            seed=config.seed,
            progress=context.shown,
        )
    return TrainResult(checkpoint, state.history, state.losses, initial)
