"""The training loop: steps, evaluations, snapshots, rollbacks and interruptions."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from types import FrameType

import torch
from torch import Tensor, nn

from nfaug.classes.gaussians import ClassGaussians
from nfaug.data.batches import batches
from nfaug.flows.flow import Flow
from nfaug.run.device import float64_device, to_device
from nfaug.run.ranks import Ranks

from .config import TrainConfig
from .context import RunContext
from .distributed import Shard, averaging, draw_noise, shared_batches
from .metrics import evaluate
from .optimizer import TrainingDiverged
from .reporter import Reporter
from .run import Run
from .snapshots import RunState

MAX_ROLLBACKS = 3
_PROBES = 64  # images encoded to check that a flow is still finite


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run after its state was saved: `train(..., resume=True)` continues it.

    Args:
        message: What was saved, and how to continue.
        number: The number of the signal.

    Attributes:
        exit_code: 128 plus the signal's number, as in shells.

    Example:
        >>> Interrupted("saved", 15).exit_code
        143
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code: int = 128 + number


class FlowLoss(nn.Module):
    """Summed bits/dim of a batch, as one module that `averaging` can wrap."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self, images: Tensor, noise: Tensor, labels: Tensor, gaussians: ClassGaussians
    ) -> Tensor:
        z, logdet = self.flow.encode(images, noise)
        nll = -(gaussians.log_prob(z, labels) + logdet)
        return self.flow.codec.bits_per_dim(nll).sum()


class Loop:
    """Trains from a state, which it changes in place, until the last epoch is over."""

    def __init__(self, run: Run, context: RunContext, state: RunState, reporter: Reporter) -> None:
        self.run: Run = run
        self.context: RunContext = context
        self.config: TrainConfig = context.config
        self.ranks: Ranks = run.ranks
        self.state: RunState = state
        self.reporter: Reporter = reporter
        self.flow: Flow = state.optimizer.flow
        self.model: nn.Module = averaging(FlowLoss(self.flow), self.ranks)
        self.signals: list[int] = []
        self.began: float = time.monotonic() - state.elapsed
        self.saved_at: float = state.elapsed

    def train(self) -> None:
        """Train until the last epoch is over.

        Raises:
            TrainingDiverged: If steps are still not finite after `MAX_ROLLBACKS` rollbacks.
            Interrupted: After SIGINT or SIGTERM, when the state is saved.
            OSError: If files cannot be read or written.
        """
        state = self.state
        state.finished = state.finished and self._done() >= 1  # it may now have more epochs or time
        if state.finished:
            self.reporter.note(
                "training had finished: the flow stays as it is, and is evaluated and fitted once "
                "more. With more --epochs or --max-minutes, whichever ended it, it trains on"
            )
        handlers: AbstractContextManager[None] = contextlib.nullcontext()
        if self.run.out is not None:
            handlers = noted(self.signals)
        with handlers:
            while not state.finished:
                try:
                    self._epoch()
                except TrainingDiverged as error:
                    self._roll_back(error)

    def _epoch(self) -> None:
        """Train the rest of the epoch, then evaluate."""
        state = self.state
        data = self.context.data
        if state.order is None:
            state.order = torch.randperm(len(data.targets), generator=state.choice_rng)
        remaining = state.order[state.position * self.config.batch_size :]
        for shard in shared_batches(data, remaining, self.config.batch_size, self.ranks):
            stop = self._step(shard)
            self._between_steps(stop)
            if self._done() >= 1:
                break
        self._end_epoch()

    def _step(self, shard: Shard) -> bool:
        """Take a step on a batch; return whether a process received a signal."""
        state = self.state
        augmentation = self.config.augmentation
        images = to_device(shard.images, self.ranks.device)
        # All processes draw for the whole batch; each uses the part of its own rows.
        draws = augmentation.draw(shard.total, state.noise_rng)
        draws = {name: values[shard.part] for name, values in draws.items()}
        images = augmentation.apply(images, draws)
        noise = draw_noise(self.flow, shard.total, state.noise_rng, augmentation.noise)[shard.part]
        labels = to_device(shard.labels, self.ranks.device)
        if not self.config.prior.entry.labelled:
            labels = torch.zeros_like(labels)
        bits = self.model(images, noise, labels, state.gaussians) * (shard.weight / shard.total)
        # Summed over processes: the loss, the number that got a signal, the main one's clock.
        seconds = time.monotonic() - self.began if self.ranks.main else 0.0
        sums = torch.tensor([0.0, len(self.signals) > 0, seconds], dtype=torch.float64)
        sums = to_device(sums, float64_device(self.ranks.device))
        sums[0] = bits.detach()
        self.ranks.sum(sums)
        # The wrapper averages gradients over processes, and the loss is a sum over them.
        stepped, numbers = state.optimizer.step(bits * self.ranks.count, self._done(), sums)
        loss, signalled, elapsed = numbers
        state.elapsed = elapsed
        if stepped:
            state.losses.append(loss)
        state.position += 1
        self.reporter.step(state, shard.total, self._done())
        return bool(signalled)

    def _done(self) -> float:
        """The share of the run that is over, by steps or by the clock."""
        done = self.state.optimizer.steps / (self.config.epochs * self.context.steps_per_epoch)
        if self.config.max_minutes is not None:
            done = max(done, self.state.elapsed / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def _between_steps(self, stop: bool) -> None:
        """Save the state if it is time to; stop if a process received a signal.

        What a rollback or a resumed run starts from is a good state, or the one before it.
        """
        due = self.state.elapsed - self.saved_at >= 60 * self.config.checkpoint_minutes
        if (due or stop) and not self.state.optimizer.skipped_in_a_row:
            if self._is_finite(self.flow):
                self._save()
            elif not stop:
                raise self._not_finite()
        if stop:
            self.ranks.wait()  # the main process may still be writing
            number = self.signals[0] if self.signals else signal.SIGTERM  # of another process
            raise Interrupted(f"interrupted; {self.run.hint()}", number)

    def _end_epoch(self) -> None:
        """Solve the Gaussians, evaluate and draw, where due.

        An error here loses the steps since the last snapshot: a resumed run repeats them.
        """
        state = self.state
        config = self.config
        last = self._done() >= 1
        due = state.refitted < config.prior.refit_epoch <= state.epoch
        if due and config.prior.has_second_solve and not last:
            self._check_finite(self.flow)
            state.gaussians, state.prior = self.context.solve(
                config.prior, self.flow, state.noise_rng, state.choice_rng
            )
            state.refitted = state.epoch
        if last:
            self._check_finite(state.optimizer.average)
        if last or state.epoch % config.eval_every == 0:
            self._evaluate()
        every = config.pictures_every
        if every and (last or state.epoch % every == 0):
            self.reporter.samples(state)
        if state.position >= self.context.steps_per_epoch:
            state.epoch += 1
            state.position = 0
            state.order = None
        state.finished = last
        if last:
            self._save()

    def _evaluate(self) -> None:
        """Add a row to the log."""
        state = self.state
        optimizer = state.optimizer
        recent = state.losses[-self.context.steps_per_epoch :]
        loss = sum(recent) / len(recent) if recent else math.nan
        row = {
            "epoch": state.epoch,
            "step": optimizer.steps,
            "seconds": round(state.elapsed, 2),
            f"train_{self.flow.codec.figure}": loss,
            "lr": optimizer.rate,
            "skipped_steps": optimizer.skipped,
        }
        if self.context.test is not None:
            row |= evaluate(
                optimizer.average,
                state.gaussians,
                self.context.test,
                progress=self.context.shown,
                ranks=self.ranks,
            )
        state.history.append(row)
        self.reporter.row(state)

    def _save(self) -> None:
        self.run.snapshots.save(self.state.snapshot())
        self.saved_at = self.state.elapsed

    @torch.no_grad()
    def _is_finite(self, flow: Flow) -> bool:
        """Whether some images have finite latents; steps may be finite and the weights not."""
        order = torch.arange(min(_PROBES, len(self.context.data.targets)))
        for images, _ in batches(self.context.data, [order]):
            latents, _ = flow.encode(images.to(self.ranks.device))
            if not bool(latents.isfinite().all()):
                return False
        return True

    def _check_finite(self, flow: Flow) -> None:
        """Raise TrainingDiverged unless the flow is finite."""
        if not self._is_finite(flow):
            raise self._not_finite()

    def _not_finite(self) -> TrainingDiverged:
        optimizer = self.state.optimizer
        return TrainingDiverged(
            f"latents are not finite after {optimizer.steps} steps, {optimizer.skipped} of them "
            f"skipped; {optimizer.advice()}"
        )

    def _roll_back(self, error: TrainingDiverged) -> None:
        """Return to the last saved state and halve the learning rate."""
        state = self.state
        rollbacks = state.rollbacks
        scale = state.optimizer.scale
        elapsed = state.elapsed
        self.ranks.wait()  # the main process may still be writing
        snapshot = self.run.snapshots.newest() if rollbacks < MAX_ROLLBACKS else None
        if snapshot is None:
            tries = f" (after {rollbacks} rollbacks)" if rollbacks else ""
            raise TrainingDiverged(f"{error}{tries}") from error
        state.restore(snapshot)
        state.rollbacks = rollbacks + 1
        state.elapsed = elapsed
        state.optimizer.scale = scale / 2
        state.optimizer.skipped_in_a_row = 0
        self.reporter.rewind(state)
        warnings.warn(
            f"{error}. Rolled back to step {state.optimizer.steps}; the learning rate is now "
            f"scaled by {state.optimizer.scale:g} (rollback {state.rollbacks} of {MAX_ROLLBACKS})",
            RuntimeWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def noted(signals: list[int]) -> Iterator[None]:
    """Note SIGINT and SIGTERM in a list while the block runs, so that the state is saved first.

    A second Ctrl-C interrupts at once, and a signal that the loop did not see has its usual effect
    when the block ends. Only the main thread can set handlers; elsewhere signals are left as they
    are.
    """

    def note(number: int, frame: FrameType | None) -> None:
        if signals and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.append(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signals:
        signal.raise_signal(signals[0])
