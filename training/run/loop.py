"""The loop: step after step from whatever state a run is in, until it is over or must stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ...fitting import image_bits_per_dim
from ...flows.flow import Flow
from ...gaussians.gaussians import ClassGaussians
from ..evaluation.metrics import evaluate
from .context import Setup
from .health import scale_warnings
from .interruption import Interrupted, Interrupts
from .optimizer import TrainingDiverged
from .prior import prior_labels
from .reporter import Reporter
from .shares import Share, draw_noise, shared_batches
from .snapshots import FolderStates, States
from .state import RunState
from .stopped import OUTSIDE, stopped_from_outside, what_is_left

__all__ = ["FlowLoss", "Loop"]

_PROBES = 64  # images whose latents tell whether a flow is still finite


class FlowLoss(nn.Module):
    """The summed bits/dim of a batch: what several processes differentiate as one module."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(
        self, images: Tensor, noise: Tensor, labels: Tensor, gaussians: ClassGaussians
    ) -> Tensor:
        z, logdet = self.flow.encode(images, noise)
        nll = -(gaussians.log_prob(z, labels) + logdet)
        return image_bits_per_dim(self.flow, nll).sum()


class Loop:
    """A run under way.

    Args:
        setup: what it works with.
        state: where it is.
        states: where it is saved.
        reporter: who is told.
    """

    def __init__(self, setup: Setup, state: RunState, states: States, reporter: Reporter) -> None:
        self.setup, self.config, self.processes = setup, setup.config, setup.processes
        self.state, self.states, self.reporter = state, states, reporter
        self.flow = state.optimizer.flow
        self.model = self.processes.spread(FlowLoss(self.flow))
        self.interrupts = Interrupts(wanted=isinstance(states, FolderStates))
        self.began = time.monotonic() - state.elapsed
        self.saved_at = state.elapsed
        self.stop = 0
        self.window = [0.0, 0.0]  # images and seconds of training since the last row of the log
        self.warned: set[str] = set()

    def run(self) -> None:
        """Train until the last epoch is over.

        Raises:
            TrainingDiverged: steps were not finite, and going back did not help.
            Interrupted: SIGINT or SIGTERM came; the state was saved.
            RunStopped: files could not be read or written, or another process has ended.
        """
        with stopped_from_outside(self.states, self.processes), self.interrupts:
            try:
                while not self.state.finished:
                    try:
                        self._epoch()
                    except TrainingDiverged as error:
                        self._go_back(error)
            except OUTSIDE:  # between two steps: what they computed is not lost with the images
                if self.processes.count == 1:
                    with contextlib.suppress(*OUTSIDE):  # of a full disk: the one before is whole
                        self._save()
                raise
            self._heed_late_interrupts()

    def _epoch(self) -> None:
        """The rest of an epoch, and what comes after it."""
        state, data = self.state, self.setup.data
        if state.order is None:
            state.order = torch.randperm(len(data.labels), generator=state.choice)
        rest = state.order[state.position * self.config.batch_size :]
        shares = shared_batches(data, rest, self.config.batch_size, self.processes)
        before = time.monotonic()
        for share in self._fetched(shares):
            self._step(share)
            self.window[0] += share.total
            self.window[1] += time.monotonic() - before
            self._between_steps()
            before = time.monotonic()
            if self._done() >= 1:
                break
        self._end_epoch()

    def _fetched(self, shares: Iterator[Share]) -> Iterator[Share]:
        """The batches; whatever kept one from being read is an error of files."""
        while True:
            try:
                share = next(shares)
            except StopIteration:
                return
            except (ValueError, RuntimeError) as error:  # of a worker: RuntimeError
                raise OSError(str(error)) from error
            yield share

    def _step(self, share: Share) -> None:
        state, augmentation = self.state, self.config.augmentation
        images = share.images.to(self.processes.device, non_blocking=True)
        if augmentation.enabled:
            drawn = augmentation.draw(share.total, generator=state.noise)
            images = augmentation.apply(images, {k: v[share.part] for k, v in drawn.items()})
        noise = draw_noise(self.flow, share.total, state.noise, augmentation.noise)[share.part]
        labels = prior_labels(self.config.prior, share.labels).to(self.processes.device)
        bits = self.model(images, noise, labels, state.gaussians) * (share.weight / share.total)
        value, told = self._agree(bits.detach())
        # The wrapper averages over processes, so that the sum of all parts must be that much more.
        loss = state.optimizer.step(bits * self.processes.count, self._done(), value)
        self.stop, state.elapsed = told()
        if loss is not None:
            state.losses.append(loss)
        state.position += 1
        self.reporter.step(state, share.total)

    def _agree(self, bits: Tensor) -> tuple[Tensor, Callable[[], tuple[int, float]]]:
        """The loss of all processes; and later, whether one shall stop, and the main one's time."""
        elapsed = time.monotonic() - self.began
        if self.processes.count == 1:
            return bits, lambda: (self.interrupts.number, time.monotonic() - self.began)
        vector = bits.new_tensor(
            [0.0, float(self.interrupts.number > 0), elapsed * self.processes.main],
            dtype=torch.float64,
            device=self.processes.float64,
        )
        vector[0] = bits
        self.processes.sum(vector)

        def told() -> tuple[int, float]:
            stop, elapsed = vector[1:].tolist()
            return (self.interrupts.number or signal.SIGTERM) if stop else 0, elapsed

        return vector[0], told

    def _done(self) -> float:
        done = self.state.optimizer.steps / (self.config.epochs * self.setup.steps_per_epoch)
        if self.config.max_minutes is not None:
            done = max(done, self.state.elapsed / (60 * self.config.max_minutes))
        return min(done, 1.0)

    def _between_steps(self) -> None:
        if self.stop:
            self._save()
            self.processes.wait()  # who writes it is perhaps another
            raise Interrupted(f"interrupted; {what_is_left(self.states)}", self.stop)
        due = self.state.elapsed - self.saved_at >= 60 * self.config.checkpoint_minutes
        if due and not self.state.optimizer.skipped_in_a_row:  # a state to go back to is a good one
            self.refuse_broken(self.flow)
            self._save()

    def _heed_late_interrupts(self) -> None:
        """A signal may come after the last step, while others measure on."""
        number = self.interrupts.number
        told = torch.tensor(float(number > 0), device=self.processes.device)
        if bool(self.processes.sum(told)):
            told_of = number or signal.SIGTERM
            raise Interrupted(f"interrupted; {what_is_left(self.states)}", told_of)

    def _end_epoch(self) -> None:
        state, last = self.state, self._done() >= 1
        drawn = state.noise.get_state(), state.choice.get_state()
        before = state.gaussians, state.prior, state.best, len(state.history)
        try:
            self._after_epoch(last)
        except BaseException:  # a state that is saved now will do all of it again
            state.noise.set_state(drawn[0])
            state.choice.set_state(drawn[1])
            state.gaussians, state.prior, state.best, rows = before
            del state.history[rows:]
            raise
        if state.position >= self.setup.steps_per_epoch:
            state.epoch, state.position, state.order = state.epoch + 1, 0, None
        state.finished = last
        if last:
            self._save()

    def _after_epoch(self, last: bool) -> None:
        """Gaussians, figures and pictures, where they are due."""
        state, config, epoch = self.state, self.config, self.state.epoch
        if epoch == config.prior.refit_epoch and not last:
            self.refuse_broken(self.flow)
            state.gaussians, state.prior = self.setup.solve(self.flow, state.noise, state.choice)
        if last:
            self.refuse_broken(state.optimizer.average)
        if last or epoch % config.eval_every == 0:
            self._look()
        if not last and config.pictures_every and epoch % config.pictures_every == 0:
            self.reporter.pictures(state)

    def _look(self) -> None:
        """A row of the log, and what it brings to light."""
        state, optimizer = self.state, self.state.optimizer
        recent = state.losses[-self.setup.steps_per_epoch :]
        images, seconds = self.window
        self.window = [0.0, 0.0]
        row: dict[str, float] = {
            "epoch": state.epoch,
            "step": optimizer.steps,
            "seconds": round(time.monotonic() - self.began, 2),
            f"train_{self.flow.codec.figure}": sum(recent) / len(recent) if recent else math.nan,
            "lr": optimizer.rate,
            "skipped_steps": optimizer.skipped,
            "images_per_second": round(images / seconds, 2) if seconds else math.nan,
        }
        if self.setup.val is not None:
            row |= evaluate(
                optimizer.average,
                state.gaussians,
                self.setup.val,
                progress=self.setup.shown,
                processes=self.processes,
            )
        state.history.append(row)
        self.reporter.row(state)
        for name, message in scale_warnings(self.flow).items():
            if name not in self.warned:
                self.warned.add(name)
                warnings.warn(
                    f"after {optimizer.steps} steps {message}", RuntimeWarning, stacklevel=2
                )
        figure = self.flow.codec.figure
        if row.get(figure, math.inf) < state.best:
            state.best = row[figure]
            if isinstance(self.states, FolderStates):
                figures = {k: row[k] for k in (figure, "nf_acc") if k in row}
                best = self.setup.checkpoint(optimizer.average, state, metrics=figures)
                self.states.save_flow("best", best)

    def _save(self) -> None:
        self.states.save(self.state.snapshot())
        self.saved_at = self.state.elapsed

    @torch.no_grad()
    def refuse_broken(self, flow: Flow) -> None:
        """Each step may have been finite, and the weights after the last one too large.

        Raises:
            TrainingDiverged: the flow maps images to latents that are not finite.
        """
        optimizer = self.state.optimizer
        order = torch.arange(min(_PROBES, len(self.setup.data.labels)))
        for images, _ in self.setup.data.iterate(order, _PROBES):
            if not bool(flow.encode(images.to(self.processes.device))[0].isfinite().all()):
                raise TrainingDiverged(
                    f"after {optimizer.steps} steps, {optimizer.skipped} of them skipped, the flow "
                    f"maps images to latents that are not finite; {optimizer.advice()}"
                )

    def _go_back(self, error: TrainingDiverged) -> None:
        """Return to the last saved state, with a smaller step."""
        state, most = self.state, self.config.optim.max_rollbacks
        rollbacks, scale, elapsed = state.rollbacks, state.optimizer.scale, state.elapsed
        self.processes.wait()  # the main process may still be writing
        snapshot = self.states.newest() if rollbacks < most else None
        if snapshot is None:
            tries = f" (after {rollbacks} returns to an earlier state)" if rollbacks else ""
            raise TrainingDiverged(f"{error}{tries}") from error
        state.restore(snapshot)
        state.rollbacks, state.elapsed = rollbacks + 1, elapsed
        state.optimizer.scale = scale / 2
        state.optimizer.skipped_in_a_row = 0
        self.reporter.rewind(state)
        warnings.warn(
            f"{error}. Back to step {state.optimizer.steps}, with {state.optimizer.scale:g} of the "
            f"learning rate ({state.rollbacks} of {most} times)",
            RuntimeWarning,
            stacklevel=2,
        )
