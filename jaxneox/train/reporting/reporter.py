"""Takes each step's figures from the device, one step late so that no step waits for them."""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from jaxneox.errors import UserError
from jaxneox.loading.pure import plain
from jaxneox.parallel.mesh import no_mesh
from jaxneox.train.reporting.callbacks import Progress
from jaxneox.train.reporting.metrics import Figures, Sink
from jaxneox.train.reporting.progress import Bar
from jaxneox.train.reporting.spikes import Spikes, losses_until
from jaxneox.train.run import Run

PATIENCE = 10  # steps in a row that may be skipped for a loss or gradient that is not finite
PATIENCE_SCALING = 50  # the same where a loss scale is still looking for its level, as in NeoX


class Reporter:
    """Waits for each step's figures only after the next step is under way, then passes them on."""

    def __init__(self, run: Run, sinks: Sequence[Sink], bar: Bar, stop: Callable[[], None]):
        self.run, self.sinks, self.bar, self.stop = run, sinks, bar, stop
        self.limit = PATIENCE_SCALING if run.cfg.precision.loss_scale else PATIENCE
        self.spikes = Spikes(run.cfg.log.spike_factor, losses_until(run.step, run.folder))
        self.waiting: deque[tuple[int, Figures, bool]] = deque()
        self.clock = time.perf_counter()
        self.error: Exception | None = None  # of a callback
        # steps of this start, those whose loss was a number, and those that changed the weights
        self.seen = self.finite = self.updates = 0

    def add(self, step: int, figures: Figures, timed: bool = True) -> None:
        """Take the figures of a step, and pass on those of the step before.

        Args:
            step: its number.
            figures: of which some may still be computed on the device.
            timed: whether its time tells how fast the program is, which a profiled step's does not.
        """
        self.waiting.append((step, figures, timed))
        if self.run.callbacks:  # they are told of a step before the next begins
            self.flush()
        elif len(self.waiting) > 1:
            self._pass_on()

    def flush(self) -> None:
        while self.waiting:
            self._pass_on()

    def check_that_it_learned(self) -> None:
        """Refuse to call a start a success in which nothing was learned.

        Raises:
            UserError: no loss was finite; or the run is at its end, and none of its steps, of which
                more than ten were taken now, changed a weight.
        """
        if self.seen and not self.finite:
            raise UserError(
                f"no loss of the {self.seen} steps until step {self.run.step} was finite: nothing "
                "was learned, and nothing is saved of it; earlier checkpoints are as they were. "
                "Look at the data and its loss_mask, and run again with a smaller learning rate or "
                "loss scale"
            )
        at_the_end = self.run.step >= self.run.last  # else its loss scale may yet be found
        if at_the_end and self.seen > PATIENCE and not self.updates:
            raise UserError(
                f"all {self.seen} steps until step {self.run.step} were skipped, since their "
                "gradients were not finite: nothing was learned, and no more is saved of it; "
                "earlier checkpoints are as they were. Run again with a smaller loss scale or "
                "learning rate"
            )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do work whose time belongs to no step; all figures until here are written before it."""
        self.flush()
        jax.block_until_ready(self.run.state)
        start = time.perf_counter()
        yield
        self.clock += time.perf_counter() - start

    def _pass_on(self) -> None:
        step, on_device, timed = self.waiting.popleft()
        figures = {name: np.asarray(value).tolist() for name, value in on_device.items()}
        now = time.perf_counter()
        figures |= self._of_the_batch(step) | {"seconds": now - self.clock}
        self.clock = now
        line = self._look_at(step, figures)
        self.seen += 1
        self.finite += math.isfinite(figures["loss"])
        self.updates += not figures["streak"]
        for sink in self.sinks:
            sink.write(step, figures)
        self.bar.show(step, figures, timed)
        if line:
            self.bar.say(line)
        self._call_back(step, figures)
        if figures["streak"] >= self.limit and self.error is None:
            first, last = figures["first_sample"], figures["last_sample"]
            raise UserError(
                f"step {step}: {figures['streak']} steps in a row had a loss or a gradient that is "
                f"not finite (loss {figures['loss']} of samples {first} to {last}); stopped "
                "without saving, the checkpoints are from before. Run again with a smaller "
                "learning rate"
            )

    def _call_back(self, step: int, figures: Figures) -> None:
        """Call the callbacks. An error of theirs ends the run, as `stop` does, and waits."""
        try:
            for callback in self.run.callbacks:
                with no_mesh():
                    callback(Progress(step, figures, self._params, self.stop))
        except Exception as error:
            self.error = error
            self.stop()

    def raise_error(self) -> None:
        """Raise the error of a callback, if there was one, with its own traceback."""
        if self.error is not None:
            raise self.error

    def _params(self) -> Mapping[str, jax.Array]:
        each = self.run.state.params.items()
        return {name: plain(w, self.run.mesh, copy=True) for name, w in each}

    def _of_the_batch(self, step: int) -> Figures:
        """Compute the figures that follow from the sequences of a step, whatever is in them."""
        cfg, schedule, curriculum = self.run.cfg, self.run.plan.schedule, self.run.plan.curriculum
        size = self.run.loader.sizes.size(step - 1 - self.run.first)
        length = curriculum.positions(step - 1) if curriculum else cfg.model.seq_length
        figures: Figures = {"tokens": size * self.run.plan.texts * length}
        if curriculum:
            figures["curriculum_seqlen"] = length
        if schedule is not None:
            micro = size * cfg.batch.accumulation // cfg.batch.global_size
            figures["bubble"] = dataclasses.replace(schedule, micro=micro).bubble
        return figures

    def _look_at(self, step: int, figures: Figures) -> str | None:
        """Add the sample numbers to the figures of a step that is skipped or whose loss is a spike.

        Returns:
            The line to print for a spike, else None.
        """
        deviations = self.spikes.add(figures["loss"])
        if deviations is None and not figures["streak"]:
            return None
        first, last = self.run.loader.sample_numbers(step - 1 - self.run.first)
        figures |= {"first_sample": first, "last_sample": last}
        if deviations is None:
            return None
        figures["spike"] = deviations
        return (
            f"step {step:>6}  loss {figures['loss']:.4f} is a spike: {deviations:.1f} deviations "
            f"above the median of the last {len(self.spikes.losses)}; samples {first} to {last}"
        )
