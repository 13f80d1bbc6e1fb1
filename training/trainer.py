"""Training a flow: settings, data, model, optimiser, loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from ..checkpoint.checkpoint import Checkpoint
from ..data.open import wrap_dataset
from ..fitting import check_images, fit_classes
from .config import FlowSettings, TrainConfig
from .evaluation.metrics import evaluate
from .report.environment import save_environment
from .run.context import Setup, open_setup
from .run.interruption import Interrupted
from .run.latent_cache import open_codec
from .run.loop import Loop
from .run.optimizer import TrainingDiverged
from .run.processes import Processes
from .run.reporter import Reporter
from .run.snapshots import FolderStates, MemoryStates, States
from .run.state import RunState, Snapshot
from .run.stopped import RunStopped, stopped_from_outside

__all__ = ["Interrupted", "RunStopped", "TrainResult", "TrainingDiverged", "shape_of", "train"]


@dataclass
class TrainResult:
    """A trained checkpoint, and how it came about.

    Attributes:
        checkpoint: the moving average of the flow, its gaussians and PCA. Of several processes the
            main one alone fits PCA.
        history: one row a look at the held-out images, as in `log.csv`.
        loss: bits per dimension of every step that was not skipped.
        initial: the flow right after its data-dependent initialisation, or as it was given, with
            the gaussians of that moment.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    initial: Checkpoint | None = None


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
    """Train a flow on any data set of (image, label).

    Maximum likelihood under one gaussian per class (Eq. 2), the gaussians as `config.prior` says:
    solved after the data-dependent initialisation and again after the first epoch, then fixed. On
    one machine's CPU the same seed gives the same weights; torch's global generators are left as
    they are. A step whose loss or gradient is not finite is skipped and counted; after
    `optim.max_bad_steps` in a row the run goes back to its last saved state with half the learning
    rate.

    Under `accelerate launch` or `torchrun` every process calls this with the same arguments.
    Batches are of all of them together, so that the run is that of one process up to rounding.

    Args:
        dataset: images as `nfaug.training.wrap_dataset` takes them; labels 0..K-1. What fits in
            memory is read once, so that random transforms are drawn once: use
            `config.augmentation`.
        config: the run's settings.
        val: images to measure on; by default a share of each class is held out.
        init: start from this flow instead of a new one. It decides the flow's shape, and the class
            gaussians are solved anew.
        folder: where log, saved states, pictures and what trackers write go; without it the run
            leaves nothing behind. All processes must see it. Ctrl-C and SIGTERM then save first.
        resume: go on from the newest state in `folder`, if there is one: bit for bit on a CPU, as
            long as `max_minutes` is None, which makes the learning rate follow the clock.
        pictures: draw the pictures of a finished run too.
        progress: show bars.
        processes: who works on it; by default found from the environment.
        begin: called on the main process when nothing of the arguments can be wrong any more,
            before anything is written.

    Raises:
        ValueError: the data set is empty, a class has fewer than two images, the held-out images
            are of other classes or another shape; or a saved state is damaged, or of another run.
        FixedPointDivergence: the class gaussians cannot be found with these settings.
        TrainingDiverged: steps were not finite and `optim.max_rollbacks` returns did not help.
        Interrupted: SIGINT or SIGTERM came; a KeyboardInterrupt, after the state was saved.
        RunStopped: files could not be read or written any more, or another process has ended.
    """
    images = wrap_dataset(dataset)
    config = (config or TrainConfig()).for_images(len(images))
    path = None if folder is None else Path(folder).expanduser()
    if processes is None:
        processes = Processes(config.device, config.trackers if path is not None else (), path)
    with warnings.catch_warnings():
        if not processes.main:  # all would say the same
            warnings.simplefilter("ignore")
        if init is not None:
            config = replace(config, flow=shape_of(init, config.flow))
            check_images(init.flow, images)
            if config.autoencoder is not None and init.flow.codec.record is None:
                raise ValueError(
                    "the flow to start from works on pixels; leave out autoencoder, or start from "
                    "a flow on its latents"
                )
        begun = _begun(path, config) if resume else None
        # A flow on latents goes on in the scale that it began with, not in one measured again.
        given = init if begun is None else begun
        codec = open_codec(images, config, processes.device) if given is None else given.flow.codec
        setup = open_setup(images, config, processes, codec, val=val, progress=progress)
        if begun is not None and init is None and begun.flow.config != setup.flow_config():
            raise ValueError(
                f"the run in {path} trains {begun.flow.config}; the settings ask for "
                f"{setup.flow_config()}. What decides the flow's shape cannot change on the way"
            )
        states = _states(setup, path)
        snapshot = states.newest() if begun is not None else None
        if resume:
            processes.refuse_different(
                -1 if snapshot is None else snapshot.facts["optimizer"]["steps"],
                "the folder to go on in must be one that all of them see",
            )
        if snapshot is None and isinstance(states, FolderStates):
            states.clear()  # before new settings stand beside states of other ones
        if begin is not None and processes.main:
            begin()
        if begun is not None and snapshot is not None:
            state, initial = _go_on(setup, begun, snapshot), begun
        else:
            state, initial = _begin(setup, states, init)
        if path is not None and processes.main:
            save_environment(path, processes.device)
        reporter = Reporter(setup, path)
        try:
            reporter.start(state)
            loop = Loop(setup, state, states, reporter)
            loop.run()
            with stopped_from_outside(states, processes):
                result = _finish(setup, state, initial)
                if pictures and processes.main:
                    from .run.pictures import figure_image, run_figures

                    found = run_figures(result, setup.dataset).items()
                    reporter.show({k: figure_image(v) for k, v in found}, state.optimizer.steps)
        finally:
            reporter.close()
        with stopped_from_outside(states, processes):
            processes.wait()
    return result


def _states(setup: Setup, path: Path | None) -> States:
    if path is None:
        return MemoryStates()
    return FolderStates(
        path,
        setup.config.keep_checkpoints,
        setup.dataset.fingerprint(),
        {
            "batch_size": setup.config.batch_size,
            "seed": setup.config.seed,
            "images to train on": len(setup.data.labels),
        },
        writer=setup.processes.main,
    )


def _begun(path: Path | None, config: TrainConfig) -> Checkpoint | None:
    """The flow that the run in a folder began with; None where there is nothing to go on from."""
    if path is None or not (states := FolderStates(path)).steps():
        return None
    initial = states.flow("initial", config.autoencoder)
    if initial is None:
        raise ValueError(f"{states.folder / 'initial'} is missing: the run cannot go on")
    return initial


def _go_on(setup: Setup, begun: Checkpoint, snapshot: Snapshot) -> RunState:
    state = setup.resume(begun.flow, snapshot)
    # Where settings ask for more than the run was to do, it goes on.
    done = state.optimizer.steps >= setup.config.epochs * setup.steps_per_epoch
    timed = setup.config.max_minutes is not None
    state.finished = state.finished and (
        done or (timed and state.elapsed >= 60 * (setup.config.max_minutes or 0))
    )
    return state


def _begin(setup: Setup, states: States, init: Checkpoint | None) -> tuple[RunState, Checkpoint]:
    """The state of a new run, saved, and the flow that it begins with."""
    flow = setup.new_flow() if init is None else init.flow
    state = setup.start(flow)
    device = setup.processes.device
    initial = setup.checkpoint(copy.deepcopy(state.optimizer.flow).to(device).eval(), state)
    if isinstance(states, FolderStates):
        states.save_flow("initial", initial)
    states.save(state.snapshot())
    return state, initial


def shape_of(init: Checkpoint, asked: FlowSettings) -> FlowSettings:
    """The settings of a flow that is there already; warns where others were asked for."""
    config = init.flow.config
    names = FlowSettings.__dataclass_fields__
    shape = FlowSettings(**{name: getattr(config, name) for name in names})
    if asked not in (shape, FlowSettings()):
        warnings.warn(
            "the flow that training starts from decides the flow's shape; flow.* is not used",
            UserWarning,
            stacklevel=3,
        )
    return shape


def _finish(setup: Setup, state: RunState, initial: Checkpoint) -> TrainResult:
    optimizer, config = state.optimizer, setup.config
    flow = optimizer.average.eval()
    training = {
        "images": len(setup.data.labels),
        "epochs": state.history[-1]["epoch"],
        "steps": optimizer.steps,
        "seconds": round(state.elapsed, 1),
        "skipped_steps": optimizer.skipped,
        "rollbacks": state.rollbacks,
        "skipped_files": len(setup.dataset.skipped),
        "batch_size": config.batch_size,
        "processes": setup.processes.count,
        "lr": config.lr,
        "seed": config.seed,
    }
    metrics: dict[str, Any] = {}
    if setup.val is not None:
        metrics = evaluate(
            flow,
            state.gaussians,
            setup.val,
            # Of latents that were computed once the pixels are not at hand.
            round_trip=setup.codec is None or not config.latents.cache,
            progress=setup.shown,
            processes=setup.processes,
        )
        metrics["on"] = f"{metrics.pop('images')} held-out images"
    checkpoint = setup.checkpoint(flow, state, training=training, metrics=metrics)
    if setup.classes and setup.processes.main:
        _, checkpoint.pca = fit_classes(
            flow,
            setup.data,
            setup.classes,
            **asdict(config.pca),
            seed=config.seed,
            progress=setup.shown,
        )
    return TrainResult(checkpoint, state.history, state.losses, initial)
