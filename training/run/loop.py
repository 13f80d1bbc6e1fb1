"""The training loop: steps, evaluations, snapshots, rollbacks and interruptions."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from nfaug.classes.gaussians import ClassGaussians
from nfaug.flows.flow import Flow

from ..evaluation.metrics import evaluate
from .context import RunContext
from .distributed import Shard, draw_noise, shared_batches
from .interruption import OUTSIDE, Interrupted, SignalGuard, resume_hint, stopped_from_outside
from .optimizer import TrainingDiverged
from .prior import prior_labels
from .reporter import Reporter, training_figures
from .snapshots import FolderStates, RunState, States

__all__ = ["FlowLoss", "Loop"]

_LOST = (OSError, EOFError, RuntimeError)  # what lost data-loader workers raise
_PROBES = 64  # images encoded to check that a flow is still finite


class FlowLoss(nn.Module):
    """Summed bits/dim of a batch, as one module that `Processes.wrap` can wrap."""

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
    """Trains from a state until the last epoch is over.

    Args:
        context: Settings, images and processes.
        state: The state to start from; changed in place.
        states: Where snapshots are saved.
        reporter: Receives steps, rows and pictures.
    """

    def __init__(
        self, context: RunContext, state: RunState, states: States, reporter: Reporter
    ) -> None:
        self.context, self.config, self.processes = context, context.config, context.processes
        self.state, self.states, self.reporter = state, states, reporter
        self.flow = state.optimizer.flow
        self.model = self.processes.wrap(FlowLoss(self.flow))
        self.signals = SignalGuard(enabled=isinstance(states, FolderStates))
        self.began = time.monotonic() - state.elapsed
        self.saved_at = state.elapsed
        self.stop = 0
        self.window = [0.0, 0.0]  # images and seconds of training since the last row of the log

    def run(self) -> None:
        """Train until the last epoch is over.

        Raises:
            TrainingDiverged: If steps are not finite after `optim.max_rollbacks` rollbacks.
            Interrupted: After SIGINT, SIGTERM or SIGHUP; the state is saved first.
            RunStopped: If files cannot be read or written, or another process ended.
        """
        with stopped_from_outside(self.states, self.processes), self.signals:
            try:
                while not self.state.finished:
                    try:
                        self._epoch()
                    except TrainingDiverged as error:
                        self._roll_back(error)
            except OUTSIDE:  # the steps so far are still good: save them
                if self.processes.count == 1:
                    with contextlib.suppress(*OUTSIDE):  # disk full: the previous one stays
                        self._save()
                raise
            self._check_late_signals()

    def _epoch(self) -> None:
        """Train the rest of the epoch, then evaluate."""
        state, data = self.state, self.context.data
        if state.order is None:
            state.order = torch.randperm(len(data.labels), generator=state.choice)
        remaining = state.order[state.position * self.config.batch_size :]
        shards = shared_batches(data, remaining, self.config.batch_size, self.processes)
        before = time.monotonic()
        for shard in self._loaded(shards):
            self._step(shard)
            self.window[0] += shard.total
            self.window[1] += time.monotonic() - before
            self._between_steps()
            before = time.monotonic()
            if self._done() >= 1:
                break
        self._end_epoch()

    def _loaded(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Yield the shards; an error in loading one becomes an OSError."""
        while True:
            try:
                shard = next(shards)
            except StopIteration:
                return
            except (ValueError, *_LOST) as error:
                self._stop_if_signalled()
                raise OSError(str(error)) from error
            yield shard

    def _step(self, shard: Shard) -> None:
        state, augmentation = self.state, self.config.augmentation
        images = shard.images.to(self.processes.device, non_blocking=True)
        if augmentation.enabled:
            drawn = augmentation.draw(shard.total, generator=state.noise)
            images = augmentation.apply(images, {k: v[shard.part] for k, v in drawn.items()})
        noise = draw_noise(self.flow, shard.total, state.noise, augmentation.noise)[shard.part]
        labels = prior_labels(self.config.prior, shard.labels).to(self.processes.device)
        bits = self.model(images, noise, labels, state.gaussians) * (shard.weight / shard.total)
        value, finish = self._reduce(bits.detach())
        # The wrapper averages gradients over processes, and the loss is a sum over them.
        loss = state.optimizer.step(bits * self.processes.count, self._done(), value)
        self.stop, state.elapsed = finish()
        if loss is not None:
            state.losses.append(loss)
        state.position += 1
        self.reporter.step(state, shard.total, self._done())

    def _reduce(self, bits: Tensor) -> tuple[Tensor, Callable[[], tuple[int, float]]]:
        """Sum the loss over processes, with a stop flag and the main process's clock.

        The returned function reads flag and clock; called after the optimiser's own transfer, it
        does not make the device wait twice.
        """
        elapsed = time.monotonic() - self.began
        if self.processes.count == 1:
            return bits, lambda: (self.signals.number, time.monotonic() - self.began)
        vector = bits.new_tensor(
            [0.0, float(self.signals.number > 0), elapsed * self.processes.main],
            dtype=torch.float64,
            device=self.processes.float64,
        )
        vector[0] = bits
        self.processes.sum(vector)

        def finish() -> tuple[int, float]:
            stop, elapsed = vector[1:].tolist()
            return (self.signals.number or signal.SIGTERM) if stop else 0, elapsed

        return vector[0], finish

    def _done(self) -> float:
        done = self.state.optimizer.steps / (self.config.epochs * self.context.steps_per_epoch)
        if self.config.max_minutes is not None:
            done = max(done, self.state.elapsed / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def _between_steps(self) -> None:
        if self.stop:
            self._save()
            self.processes.wait()  # the main process may still be writing
            raise Interrupted(f"interrupted; {resume_hint(self.states)}", self.stop)
        due = self.state.elapsed - self.saved_at >= 60 * self.config.checkpoint_minutes
        if due and not self.state.optimizer.skipped_in_a_row:  # a rollback needs a good state
            self.check_finite(self.flow)
            self._save()

    def _stop_if_signalled(self) -> None:
        """Stop as after a step if a signal was received: it ended data-loader workers as well."""
        if self.signals.number and self.processes.count == 1:
            self.stop = self.signals.number
            self._between_steps()

    def _check_late_signals(self) -> None:
        """Handle a signal that arrived after the last step."""
        number = self.signals.number
        flag = torch.tensor(float(number > 0), device=self.processes.device)
        if bool(self.processes.sum(flag)):
            raise Interrupted(f"interrupted; {resume_hint(self.states)}", number or signal.SIGTERM)

    def _end_epoch(self) -> None:
        state, last = self.state, self._done() >= 1
        drawn = state.noise.get_state(), state.choice.get_state()
        before = state.gaussians, state.prior, state.refitted, len(state.history)
        try:
            self._after_epoch(last)
        except BaseException as error:  # restore, so that a resumed run does all of this again
            state.noise.set_state(drawn[0])
            state.choice.set_state(drawn[1])
            state.gaussians, state.prior, state.refitted, rows = before
            del state.history[rows:]
            if isinstance(error, _LOST) and not isinstance(error, TrainingDiverged):
                self._stop_if_signalled()
            raise
        if state.position >= self.context.steps_per_epoch:
            state.epoch, state.position, state.order = state.epoch + 1, 0, None
        state.finished = last
        if last:
            self._save()

    def _after_epoch(self, last: bool) -> None:
        """Solve the gaussians again, evaluate and draw, where due."""
        state, config, epoch = self.state, self.config, self.state.epoch
        due = state.refitted < config.prior.refit_epoch <= epoch
        if due and not last:
            self.check_finite(self.flow)
            state.gaussians, state.prior = self.context.solve(self.flow, state.noise, state.choice)
            state.refitted = epoch
        if last:
            self.check_finite(state.optimizer.average)
        if last or epoch % config.eval_every == 0:
            self._evaluate()
        if not last and config.pictures_every and epoch % config.pictures_every == 0:
            self.reporter.pictures(state)

    def _evaluate(self) -> None:
        """Add a row to the log."""
        state, optimizer = self.state, self.state.optimizer
        images, seconds = self.window
        self.window = [0.0, 0.0]
        speed = images / seconds if seconds else math.nan
        row = training_figures(state, self.context.steps_per_epoch, speed)
        if self.context.val is not None:
            row |= evaluate(
                optimizer.average,
                state.gaussians,
                self.context.val,
                progress=self.context.shown,
                processes=self.processes,
            )
        state.history.append(row)
        self.reporter.row(state)

    def _save(self) -> None:
        self.states.save(self.state.snapshot())
        self.saved_at = self.state.elapsed

    @torch.no_grad()
    def check_finite(self, flow: Flow) -> None:
        """Check that some images have finite latents; steps may be finite and the weights not.

        Raises:
            TrainingDiverged: If a latent is not finite.
        """
        optimizer = self.state.optimizer
        order = torch.arange(min(_PROBES, len(self.context.data.labels)))
        for images, _ in self.context.data.iterate(order, _PROBES):
            if not bool(flow.encode(images.to(self.processes.device))[0].isfinite().all()):
                raise TrainingDiverged(
                    f"latents are not finite after {optimizer.steps} steps, {optimizer.skipped} of "
                    f"them skipped; {optimizer.advice()}"
                )

    def _roll_back(self, error: TrainingDiverged) -> None:
        """Return to the last saved state and halve the learning rate."""
        state, most = self.state, self.config.optim.max_rollbacks
        rollbacks, scale, elapsed = state.rollbacks, state.optimizer.scale, state.elapsed
        self.processes.wait()  # the main process may still be writing
        snapshot = self.states.newest() if rollbacks < most else None
        if snapshot is None:
            tries = f" (after {rollbacks} rollbacks)" if rollbacks else ""
            raise TrainingDiverged(f"{error}{tries}") from error
        state.restore(snapshot)
        state.rollbacks, state.elapsed = rollbacks + 1, elapsed
        state.optimizer.scale = scale / 2
        state.optimizer.skipped_in_a_row = 0
        self.reporter.rewind(state)
        warnings.warn(
            f"{error}. Rolled back to step {state.optimizer.steps}; the learning rate is now "
            f"scaled by {state.optimizer.scale:g} (rollback {state.rollbacks} of {most})",
            RuntimeWarning,
            stacklevel=2,
        )
