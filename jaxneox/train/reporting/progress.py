"""The progress of a run: a bar on a terminal, and elsewhere a line now and then."""

import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxneox.config.schema import LogConfig
from jaxneox.errors import UserError
from jaxneox.hosts import messages

Figures = dict[str, Any]

WORTH_SAYING = 0.01  # of the time spent waiting for data


class Bar:
    """A progress bar with the latest figures, and every `interval` steps a line above it.

    Its times are means over the steps since the last line, without the first, which the compiler
    took. The lines are also appended to `log-dir/train.log`.
    """

    def __init__(self, start: int, total: int, log: LogConfig, rate: "Rate"):
        self.console = Console(stderr=False, soft_wrap=True)
        self.interval, self.rate, self.last = log.interval, rate, total
        self.first = start + 1
        self.forget()
        self.file = open_log(Path(log.log_dir)) if log.log_dir and messages.is_first() else None
        self.bar = Progress(
            BarColumn(bar_width=16),  # all columns together fit into 80
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not sys.stdout.isatty(),
        )
        self.task = self.bar.add_task("", total=total, completed=start, figures="compiling")
        self.bar.start()

    def show(self, step: int, figures: Figures) -> None:
        if step == self.first + 1:
            self.forget()
        self.steps += 1
        self.tokens += figures["tokens"]
        self.seconds += figures["seconds"]
        self.waited += figures["data_wait"]
        loss, speed = f"loss {figures['loss']:.4f}", self.speed()
        self.bar.update(self.task, completed=step, figures=f"{loss}  {speed}")
        if step % self.interval == 0 or step == self.last:
            rest = f"norm {figures['grad_norm']:.3f}  lr {figures['lr']:.2e}"
            milliseconds = 1000 * self.seconds / self.steps
            waited = self.waited / self.seconds
            slow = f"  {waited:.0%} of it waiting for data" if waited > WORTH_SAYING else ""
            self.say(f"step {step:>6}  {loss}  {rest}  {speed}  {milliseconds:.0f} ms{slow}")
            self.forget()
        for name in ("valid_loss", "test_loss"):
            if name in figures:
                self.say(f"step {step:>6}  {name.replace('_', ' ')} {figures[name]:.4f}")

    def speed(self) -> str:
        tokens = self.tokens / self.seconds
        utilisation = self.rate.utilisation(tokens)
        return f"{tokens:,.0f} tokens/s" + (f"  MFU {utilisation:.0%}" if utilisation else "")

    def forget(self) -> None:
        self.steps, self.tokens, self.seconds, self.waited = 0, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
        if self.file is not None:
            self.file.write(text + "\n")
            self.file.flush()

    def close(self) -> None:
        self.bar.stop()
        if self.file is not None:
            self.file.close()


def open_log(folder: Path) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "train.log").open("a")
    except OSError as error:
        raise UserError(f"log-dir {folder}: cannot be written ({error.strerror})") from error


class Rate:
    """Turns tokens per second into the share of the devices' peak that the model uses (MFU)."""

    def __init__(self, flops_per_token: float, peak: float | None):
        self.flops_per_token, self.peak = flops_per_token, peak

    def utilisation(self, tokens_per_second: float) -> float | None:
        return tokens_per_second * self.flops_per_token / self.peak if self.peak else None
