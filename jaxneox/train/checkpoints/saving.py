"""Decides which of a run's steps become checkpoints, and saves them."""

from jaxneox import checkpoint
from jaxneox.hosts.watch import mark
from jaxneox.saver import Saver
from jaxneox.train.checkpoints.restore import training_part
from jaxneox.train.loop.intervals import saves_at
from jaxneox.train.reporting.reporter import Reporter
from jaxneox.train.run import Run
from jaxneox.train.step.state import trained


class Saving:
    """Saves at the steps that are due, and at the end; does nothing for a run without a folder.

    While steps are being skipped a save waits for the next that is not: a run that diverges must
    not push its good checkpoints out of `keep-last-n-checkpoints`. A checkpoint follows the
    figures of its step, so that a run which goes on from it finds each step once in metrics.jsonl.
    """

    def __init__(self, run: Run, reporter: Reporter):
        self.run, self.reporter, self.cfg = run, reporter, run.cfg.checkpoint
        self.saver = Saver(run.folder, self.cfg.keep_last) if run.folder else None
        self.saved, self.due = run.step, False

    def before_the_first(self) -> None:
        """Save step 0 if extra-save-iters has it and no earlier start has saved it."""
        folder, step = self.run.folder, self.run.step
        if folder and step == 0 and saves_at(step, self.cfg) and 0 not in checkpoint.steps(folder):
            self._save(step)

    def after(self, step: int) -> None:
        if self.saver is not None:
            self.saver.check()
        self.due |= saves_at(step, self.cfg)
        if self.due and not self._skipping():
            self._save(step)

    def at_the_end(self, step: int) -> None:
        """Save the last step of the training, or of this process."""
        if step != self.saved and (step == self.run.last or not self._skipping()):
            self._save(step)

    def wait(self) -> None:
        if self.saver is not None:
            self.saver.wait()

    def close(self) -> None:
        if self.saver is not None:
            self.saver.close()

    def _skipping(self) -> bool:
        return int(self.run.state.streak) > 0

    def _save(self, step: int) -> None:
        if self.saver is None:
            return
        mark(f"saving step {step}", patient=True)
        with self.reporter.aside():
            state = self.run.state
            if self.run.replicas:
                self.run.replicas.check(state, step)
            training = training_part(state) if self.cfg.save_optimizer else None
            params = state.params if self.run.base is None else trained(self.run.plan, state.params)
            self.saver.save(step, params, training, self.run.meta())
        self.saved, self.due = step, False
