"""Train an objective: the only training loop, for every method and every transfer phase.

What waits for the device on a GPU, and when:

- a check that losses and gradients are finite, every `nonfinite.CHECK_EVERY` steps and where something is saved;
- a monitor, every `Monitor.every` steps;
- the progress bar, once a second on rank 0, for the loss it shows;
- the end of an epoch: means of the metrics, evaluation, state.

Between these points the loop only queues work. In fp16 with sgd or lars, torch's loss scaling waits in every step.
A CPU queues nothing, so that every step is checked at once.
"""

import math
import signal
import time
from dataclasses import replace
from typing import Any

from ssl_transfer.engine.console import progress
from ssl_transfer.engine.console.signals import Requests
from ssl_transfer.engine.distributed import collectives, device_memory
from ssl_transfer.engine.distributed.runtime import Runtime
from ssl_transfer.engine.distributed.sync_batch_norm import synchronized
from ssl_transfer.engine.errors import DivergedError, StoppedError
from ssl_transfer.engine.tracking import tracker as tracking

from . import energy, step_timing
from .checkpointing import REMEDY, State
from .epoch_means import Throughput, read
from .gradients import check_accumulation
from .nonfinite import listed
from .objective import Batches, Objective, Output
from .precision import refused_where_wrong
from .stepper import Steps
from .training_settings import Monitor, Saving, Summary, TrainingPlan
from .validation import Evaluations, Validation

_SHOW_SECONDS = 1.0
"""Between two updates of the progress bar within an epoch."""


def train(
    objective: Objective,
    groups: list[dict[str, object]],
    batches: Batches,
    *,
    plan: TrainingPlan,
    saving: Saving,
    runtime: Runtime,
    validation: Validation = Validation(),
    monitor: Monitor | None = None,
) -> Summary:
    """Train `objective` by a plan, and continue from the newest saved state if there is one.

    A step whose loss or gradient is not finite is undone and counted. On a signal, the state is saved before the
    program ends. Afterwards the objective holds the last weights, or their moving average (`optimizer.ema_decay`), or
    with `stopping.patience` the best weights of all evaluations. No state is kept from one training to the next.

    Args:
        objective: trained in place; it moves to the runtime's device.
        groups: parameter groups with their learning rates (`optimizers.parameter_groups`).
        batches: their order is a function of the epoch, so that a resumed training sees the same batches.
        plan: length, randomness and optimiser.
        saving: where metrics and states go.
        runtime: device and processes.
        validation: when and by what the training is evaluated; by default never.
        monitor: sees the metrics of single steps and of evaluations; its rows get the split `alarm`.

    Raises:
        DivergedError: too many losses were not finite, or the weights are not. The last saved state is finite.
        InputError: early stopping or plateau without a watched metric; micro-batches that would train something else; a
            batch that does not fit into memory.
        StoppedError: a signal stopped several processes.
    """
    batches, epochs, evaluate = step_timing.shortened(
        plan.phase, groups, batches, plan.epochs, validation.evaluate, validation.every, runtime
    )
    plan, validation = replace(plan, epochs=epochs), replace(validation, evaluate=evaluate)
    evaluations = Evaluations(validation, plan, saved=saving.states is not None, runtime=runtime)
    check_accumulation(objective.train(), plan.optimizer.accumulate, runtime)
    steps = Steps(
        objective,
        groups,
        plan,
        num_steps=epochs * batches.steps_per_epoch,
        higher_is_better=validation.watched is not None and validation.watched.higher_is_better,
        runtime=runtime,
    )
    loop = TrainingLoop(steps, evaluations, batches, plan, saving, monitor, runtime)
    try:
        with (
            refused_where_wrong(objective, runtime),
            synchronized(objective, wanted=plan.optimizer.sync_batch_norm, runtime=runtime),
            Requests(patient=runtime.num_processes > 1) as requests,
            progress.bar(plan.phase, steps.num_steps, active=runtime.is_main) as bar,
        ):
            loop.run(requests, bar)
    finally:
        # The next training has other parameters, and wrappers of its own.
        runtime.accelerator.free_memory()
    return loop.summary()


class TrainingLoop:
    """Run epochs of steps, evaluations and saved states; see `train`."""

    def __init__(
        self,
        steps: Steps,
        evaluations: Evaluations,
        batches: Batches,
        plan: TrainingPlan,
        saving: Saving,
        monitor: Monitor | None,
        runtime: Runtime,
    ) -> None:
        self._steps, self._evaluations, self._batches, self._plan = steps, evaluations, batches, plan
        self._saving, self._monitor, self._runtime = saving, monitor, runtime
        self._stopper, self._speed = evaluations.stopper, Throughput(batches.batch_size)
        self._meter = energy.meter(runtime.device, num_processes=runtime.num_processes)
        parts = {**steps.parts(), **evaluations.parts(), "energy": self._meter}
        if monitor is not None:
            parts["monitor"] = monitor
        self._state = State(steps.objective, parts, steps.tally, saving=saving, phase=plan.phase, runtime=runtime)
        self._shown = 0.0

    def run(self, requests: Requests, bar: progress.Bar) -> None:
        """Train from the newest state to the last epoch, or until early stopping."""
        self._requests, self._bar = requests, bar
        self._restore()
        for epoch in range(self._steps.done // self._batches.steps_per_epoch, self._plan.epochs):
            if self._evaluations.over:
                break
            stop, due = self._take_steps(epoch)
            self._finish_epoch(epoch, stop, due)
        self._state.save(self._steps.done)
        collectives.broadcast_buffers(self._steps.objective)
        self._steps.average.write()
        self._stopper.restore(self._steps.objective)
        self._steps.wrapped.eval()

    def summary(self) -> Summary:
        """Return what the training cost."""
        steps = self._steps
        return Summary(
            steps=steps.done,
            images_seen=steps.done * self._batches.batch_size,
            seconds=self._state.seconds,
            peak_memory_mb=device_memory.peak_mb(self._runtime.device),
            energy_joules=self._meter.joules,
            stopped_early=self._evaluations.over and steps.done < steps.num_steps,
            best_epoch=self._stopper.best_epoch,
            lost_race=self._evaluations.is_lost and steps.done < steps.num_steps,
        )

    def _restore(self) -> None:
        """Continue from the newest state, and drop the log's lines after it."""
        steps, runtime, phase = self._steps, self._runtime, self._plan.phase
        steps.done = self._state.restore()
        if 0 < steps.done < steps.num_steps and not self._evaluations.over:
            runtime.say(f"{phase}: going on after step {steps.done} of {steps.num_steps}")
        if self._saving.metrics_path is not None and runtime.is_main:
            tracking.drop_after(self._saving.metrics_path, phase, steps.done)
        device_memory.reset_peak(runtime.device)
        self._speed.begin(steps.done)
        self._shown = time.monotonic()

    def _take_steps(self, epoch: int) -> tuple[bool, bool]:
        """Take the remaining steps of an epoch. Return whether to stop and whether a state is due at its end."""
        steps, length = self._steps, self._batches.steps_per_epoch
        stop = due = False
        while True:
            first = steps.done - epoch * length
            for number, batch in enumerate(self._batches.epoch(epoch, first), start=first):
                last = number + 1 == length
                looked_at = self._monitor is not None and (steps.done + 1) % self._monitor.every == 0
                taken = steps.take(batch, self._requested, last or looked_at)
                if taken.outcome == "rolled back":
                    # The batches begin again at the first step that was undone.
                    break
                if taken.outcome == "skipped":
                    self._report_skip(epoch, number)
                elif looked_at:
                    self._look(epoch, read(taken.output.loss, taken.output.metrics, 1, self._runtime))
                stop, due = stop or taken.stop, due or taken.due
                if last:
                    # The end of the epoch comes before both.
                    continue
                if stop:
                    self._leave()
                elif due:
                    self._state.save(steps.done)
                stop = due = False
                self._show(taken.output)
            else:
                return stop, due

    def _finish_epoch(self, epoch: int, stop: bool, due: bool) -> None:
        """Log the means of the epoch, evaluate, and save."""
        last = epoch + 1 == self._plan.epochs
        self._log_means(epoch)
        improved = False
        if self._evaluations.due(epoch):
            found = self._evaluations.run(self._steps, epoch)
            self._log(epoch, "validation", found)
            self._look(epoch, found)
            improved = self._evaluations.improved(found)
        self._speed.begin(self._steps.done)
        self._shown = time.monotonic()
        if self._stopper.over or (self._stopper.active and last):
            self._log(epoch, "stopping", {"stopped_early": float(not last), **self._stopper.describe()})
            # The curve ends with the weights that are kept.
            self._stopper.restore(self._steps.objective)
            self._log(epoch, "validation", self._evaluations.metrics(self._steps))
        known = self._steps.agree(self._requested)
        if improved:
            self._state.save(self._steps.done, best=True)
        if stop or known.stop:
            self._leave()
        elif (due or known.due) and not last and not self._evaluations.over:
            self._state.save(self._steps.done)

    def _log_means(self, epoch: int) -> None:
        steps, means = self._steps, self._steps.tally.close()
        if not means and epoch + 1 == self._plan.epochs:
            raise DivergedError(
                f"{self._plan.phase}: no loss of the last epoch is finite. {self._state.last_good} {REMEDY}"
            )
        self._meter.observe()
        speed = self._speed.value(steps.done)
        self._bar.update(steps.done, f"loss {means.get('loss', math.nan):.4f}  {speed:,.0f} images/s")
        costs = {"learning_rate": steps.rate, "images_per_second": speed}
        if steps.skips.count:
            costs["skipped_steps"] = float(steps.skips.count)
        self._log(epoch, "train", {**costs, **means})

    def _look(self, epoch: int, values: dict[str, float]) -> None:
        if self._monitor is not None and (found := self._monitor.look(self._steps.done, values)):
            self._log(epoch, "alarm", found)

    def _report_skip(self, epoch: int, number: int) -> None:
        """Log the images of a skipped step, and end the training at the limit."""
        steps, phase = self._steps, self._plan.phase
        images = self._runtime.gathered(self._batches.names(epoch, number))
        self._log(epoch, "skipped", {"count": steps.skips.count, "images": images})
        what = f"{phase}: the loss of step {steps.done} (epoch {epoch + 1}) is not finite"
        count, limit = steps.skips.count, steps.skips.limit
        if steps.skips.too_many:
            raise DivergedError(
                f"{what}, and --optimizer.skip-limit {limit} allows no further step to be skipped. {listed(images)} "
                f"{self._state.last_good} {REMEDY}"
            )
        self._runtime.warn(f"warning: {what}; skipped, {count} of at most {limit}. {listed(images)}")

    def _leave(self) -> None:
        """Save the state and obey the signal."""
        steps, requests = self._steps, self._requests
        self._state.save(steps.done)
        kept = "" if self._saving.states is None else "; its state is saved"
        self._runtime.warn(f"{self._plan.phase}: asked to stop after step {steps.done} of {steps.num_steps}{kept}.")
        if requests.number is not None:
            requests.obey(requests.number)
        if self._runtime.num_processes > 1:
            # If one process leaves, the others cannot continue.
            raise StoppedError(signal.SIGTERM)

    def _requested(self) -> tuple[bool, bool]:
        return self._requests.number is not None, self._state.due

    def _log(self, epoch: int, split: str, values: dict[str, Any]) -> None:
        place = {"phase": self._plan.phase, "epoch": epoch + 1, "step": self._steps.done, "split": split}
        self._saving.tracker.log({**place, **values})

    def _show(self, output: Output) -> None:
        """Update the progress bar, at most once in `_SHOW_SECONDS`."""
        if self._runtime.is_main and time.monotonic() - self._shown > _SHOW_SECONDS:
            self._shown, done = time.monotonic(), self._steps.done
            self._bar.update(done, f"loss {float(output.loss):.4f}  {self._speed.value(done):,.0f} images/s")
