"""What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Figures = dict[str, Any]


class Bar:
    """A progress bar with the latest figures, and every `interval` steps a line above it."""

    def __init__(self, start: int, total: int, interval: int, flops_per_second: "Rate"):
        self.console = Console(stderr=False, soft_wrap=True)
        self.interval, self.rate = interval, flops_per_second
        self.last = total
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not sys.stdout.isatty(),
        )
        self.task = self.bar.add_task("", total=total, completed=start, figures="compiling")
        self.bar.start()

    def show(self, step: int, figures: Figures) -> None:
        text = self.describe(figures)
        self.bar.update(self.task, completed=step, figures=text)
        if step % self.interval == 0 or step == self.last:
            self.say(f"step {step:>6}  {text}  {figures['seconds'] * 1000:.0f} ms")
        for name in ("valid_loss", "test_loss"):
            if name in figures:
                self.say(f"step {step:>6}  {name.replace('_', ' ')} {figures[name]:.4f}")

    def describe(self, figures: Figures) -> str:
        speed = figures["tokens"] / figures["seconds"]
        parts = [
            f"loss {figures['loss']:.4f}",
            f"norm {figures['grad_norm']:.3f}",
            f"lr {figures['lr']:.2e}",
            f"{speed:,.0f} tokens/s",
        ]
        utilisation = self.rate.utilisation(speed)
        return "  ".join([*parts, *([f"MFU {utilisation:.0%}"] if utilisation else [])])

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self.bar.stop()


class Rate:
    """Turns tokens per second into the share of the devices' peak that the model uses (MFU)."""

    def __init__(self, flops_per_token: float, peak: float | None):
        self.flops_per_token, self.peak = flops_per_token, peak

    def utilisation(self, tokens_per_second: float) -> float | None:
        return tokens_per_second * self.flops_per_token / self.peak if self.peak else None
