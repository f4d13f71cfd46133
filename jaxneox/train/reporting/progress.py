"""The progress of a run: a bar on a terminal, and elsewhere a line now and then."""

import sys
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxneox.config.schema import LogConfig
from jaxneox.console.text import visible
from jaxneox.console.units import decimals, rate, seconds, share, significant
from jaxneox.errors import UserError
from jaxneox.hosts import messages
from jaxneox.objectives import Objective

Figures = dict[str, Any]

WORTH_SAYING = 0.01  # of the time spent waiting for data


class Bar:
    """A progress bar with the latest figures, and every `interval` steps a line above it.

    The first step has a line as well. Times are means over the steps since the last line that tell
    of the program's speed: without the first, which the compiler took, and without those that were
    profiled. The lines are also appended to `log-dir/train.log`.
    """

    def __init__(
        self,
        start: int,
        total: int,
        log: LogConfig,
        rate: "Rate",
        objective: Objective | None = None,
        quiet: bool = False,
    ):
        """Begin to show a run.

        Args:
            start: the steps that are done.
            total: all steps.
            log: how often there is a line, and where it goes.
            rate: turns speed into the share of the devices' peak.
            objective: names the figures beside the loss; None for none.
            quiet: show nothing on the terminal.
        """
        self.console = Console(stderr=False, soft_wrap=True, quiet=quiet)
        self.interval, self.rate, self.last, self.objective = log.interval, rate, total, objective
        self.first = start + 1
        self.forget()
        self.file = open_log(Path(log.log_dir)) if log.log_dir and messages.is_first() else None
        self.bar = Progress(
            BarColumn(bar_width=16),  # all columns together fit into 80
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not sys.stdout.isatty(),
        )
        self.task = self.bar.add_task("", total=total, completed=start, figures="compiling")
        self.bar.start()

    def show(self, step: int, figures: Figures, timed: bool = True) -> None:
        """Show a step.

        Args:
            step: its number.
            figures: as they go to metrics.jsonl.
            timed: whether its time tells how fast the program is.
        """
        if timed and step != self.first:
            self.steps += 1
            self.tokens += figures["tokens"]
            self.seconds += figures["seconds"]
            self.waited += figures["data_wait"]
        shown = self.objective.shown if self.objective else ()
        names = ("loss", *(name for name in shown if name in figures))
        loss = "  ".join(f"{_words(name)} {decimals(figures[name], 4)}" for name in names)
        self.bar.update(self.task, completed=step, figures=f"{loss}  {self.speed()}")
        if step in (self.first, self.last) or step % self.interval == 0:
            rest = f"norm {decimals(figures['grad_norm'], 3)}  lr {figures['lr']:.2e}"
            times = self.times()
            if step == self.first:
                times = f"{seconds(figures['seconds'])}, compiling included"
            self.say("  ".join(filter(None, (f"step {step:>6}", loss, rest, times))))
            if self.steps and self.rate.is_beyond_its_peak(self.tokens / self.seconds):
                self.say(self.rate.explain())
            self.forget()
        self.say_evaluations(step, figures)

    def say_evaluations(self, step: int, figures: Figures) -> None:
        """Say the loss of each split that was evaluated, and what is shown beside a loss."""
        shown = self.objective.shown if self.objective else ()
        for split in ("valid", "test"):
            names = [f"{split}_{name}" for name in ("loss", "char_ppl", *shown)]
            each = (f"{_words(n)} {decimals(figures[n], 4)}" for n in names if n in figures)
            if line := "  ".join(each):
                self.say(f"step {step:>6}  {line}")

    def speed(self) -> str:
        """Say how many tokens there are in a second, and what part of the peak that is."""
        if not self.steps:
            return ""
        tokens = self.tokens / self.seconds
        utilisation = self.rate.utilisation(tokens)
        return f"{rate(tokens)} tokens/s" + (f"  MFU {share(utilisation)}" if utilisation else "")

    def times(self) -> str:
        if not self.steps:
            return ""
        waited = self.waited / self.seconds
        slow = f"  {share(waited)} of it waiting for data" if waited > WORTH_SAYING else ""
        return f"{self.speed()}  {seconds(self.seconds / self.steps)}{slow}"

    def forget(self) -> None:
        self.steps, self.tokens, self.seconds, self.waited = 0, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        text = visible(text)
        self.console.print(text, highlight=False, markup=False)
        if self.file is not None:
            self.file.write(text + "\n")
            self.file.flush()

    def close(self) -> None:
        self.bar.stop()
        if self.file is not None:
            self.file.close()


def _words(name: str) -> str:
    return name.replace("_", " ")


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
        """Return the share; None if the peak is not known, or is less than what is done."""
        if not self.peak or self.is_beyond_its_peak(tokens_per_second):
            return None
        return tokens_per_second * self.flops_per_token / self.peak

    def is_beyond_its_peak(self, tokens_per_second: float) -> bool:
        return self.peak is not None and tokens_per_second * self.flops_per_token > self.peak

    def explain(self) -> str:
        """Say why there is no share from now on, and forget the peak that was wrong."""
        assert self.peak is not None
        wrong, self.peak = self.peak / 1e12, None
        return (
            f"note: the devices do more than the {significant(wrong, 3)} TFLOP/s that were taken "
            "for their peak, so that MFU is not shown; set peak-tflops"
        )
