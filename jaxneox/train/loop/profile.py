"""The YAML's `profile`: a trace of a few steps, for TensorBoard's profile page or Perfetto."""

from pathlib import Path

import jax

from jaxneox.config.schema import LogConfig
from jaxneox.errors import UserError
from jaxneox.hosts import messages


class Trace:
    """Records the steps `log.profile`, both included and numbered as in metrics.jsonl.

    The trace of process 0's devices is written to `tensorboard-dir`, else to the run's folder.
    """

    def __init__(self, log: LogConfig, run: Path | None):
        self.first, self.last = (messages.is_first() and log.profile) or (0, -1)
        self.folder = log.tensorboard_dir or (run and run / "profile")
        self.running = False
        if log.profile and self.folder is None:
            raise UserError("profile: true needs a folder for its trace: set save, by --save DIR")

    def begins_at(self, step: int) -> bool:
        return self.first <= step <= self.last and not self.running

    def ends_at(self, step: int) -> bool:
        return self.running and step >= self.last

    def start(self) -> None:
        jax.profiler.start_trace(str(self.folder))
        self.running = True

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
