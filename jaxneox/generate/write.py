"""Answers on the terminal while they grow, and in a file when they are whole."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress

from jaxneox.console.say import say, tell
from jaxneox.console.units import counted, seconds
from jaxneox.data.atomic import atomic_file
from jaxneox.infer.generate import Answer

NO_TOKENS = "WARNING: text generation did not start; try different batching or adjust parameters"
"""NeoX's own words for an answer of no tokens."""


class Screen:
    """Shows answers: a single one while it grows, several when each is finished, in their order.

    Of those that go to a file only their number is shown.
    """

    def __init__(self, prompts: Sequence[str], output: str | None):
        self._prompts, self._output = prompts, output
        self._begun = False
        self._alone = len(prompts) == 1 and not output
        self._whole: dict[int, str] = {}
        self._shown = self._tokens = 0
        self._began = time.perf_counter()
        console = Console(stderr=True)
        hidden = not (output and console.is_terminal)
        self._bar = Progress(console=console, transient=True, disable=hidden)

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("answers", total=len(self._prompts))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is None:
            self._end()
            taken = seconds(time.perf_counter() - self._began)
            where = f" -> {self._output}" if self._output else ""
            rate = f"{counted(self._tokens, 'token')} in {taken}, compiling included{where}"
            tell(f"{counted(len(self._prompts), 'answer')}, {rate}")

    def text(self, number: int, new: str) -> None:
        if self._alone:
            self._begin()
            put(new)

    def _begin(self) -> None:
        if not self._begun:
            put(self._prompts[0])
        self._begun = True

    def _end(self) -> None:
        if self._alone:
            self._begin()
            put("\n")

    def answer(self, number: int, answer: Answer) -> None:
        self._tokens += len(answer.tokens)
        self._bar.advance(self._task)
        if self._alone or self._output:
            return
        self._whole[number] = answer.text or ""
        while self._shown in self._whole:
            put(f"--- {self._shown + 1} of {len(self._prompts)} ---\n")
            put(f"{self._prompts[self._shown]}{self._whole.pop(self._shown)}\n")
            self._shown += 1


def put(text: str) -> None:
    say(text, end="")


def write_lines(name: str, prompts: Sequence[str], answers: Sequence[Answer]) -> None:
    """Write JSON lines with the fields of NeoX's `generate_samples_from_prompt`.

    Source: megatron/text_generation_utils.py.
    """
    with atomic_file(Path(name)) as file:
        for prompt, answer in zip(prompts, answers, strict=True):
            line = {
                "context": prompt,
                "text": answer.text if answer.tokens else None,
                "length": len(answer.tokens),
                "finished": answer.finished != "length",
                "message": None if answer.tokens else NO_TOKENS,
                "duration_seconds": answer.seconds,
            }
            file.write(json.dumps(line).encode() + b"\n")
