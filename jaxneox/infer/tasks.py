"""The answers that are being generated, one in each row of an engine.

The device is one step ahead of what is read here.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from jaxneox.infer.engine import Engine
from jaxneox.infer.prompt_scores import PromptScores
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Chosen, Sampling
from jaxneox.infer.scoring import no_number
from jaxneox.infer.stream import TextStream

Finish = Literal["eod", "stop", "length"]
Top = tuple[tuple[int, float], ...]
"""The most likely tokens at a position with their log-probabilities, the likeliest first."""


@dataclass
class Answer:
    """The tokens that follow a prompt.

    Attributes:
        prompt: the prompt's tokens.
        text: the answer as text, which ends before the stop string; None without a tokenizer.
        tokens: all that were generated, also those of a stop string, without the end-of-document
            token and without one that was to end it.
        logprobs: of each token, by the model itself, before any sampling setting.
        tops: the most likely tokens at each position, as many as the engine was asked for.
        end: the token that ended it, with its log-probability and the most likely tokens in its
            place.
        finished: what ended it: an end-of-document token, a stop string or another token that was
            to, or the limit of tokens.
        seconds: from when its prompt was read to its last token.
    """

    prompt: list[int]
    text: str | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    end: tuple[int, float, Top] | None = None
    finished: Finish = "length"
    seconds: float = 0.0


@dataclass(eq=False)
class Task:
    """An answer that is being generated.

    Attributes:
        answer: what there is of it.
        sampling: how its tokens are chosen.
        room: tokens that it may still have; 0 when it is finished.
        stream: its text; None without a tokenizer.
        ends: the tokens that end it, and what `Answer.finished` is then.
        scored: whether `scores` is to have the log-probabilities of the prompt's tokens.
        scores: these, once the prompt has been read.
        fault: why there is no answer: the model gave no numbers.
        began: when its prompt was read, by `time.perf_counter`.
    """

    answer: Answer
    sampling: Sampling
    room: int
    stream: TextStream | None
    ends: Mapping[int, Finish] = field(default_factory=dict)
    scored: bool = False
    scores: PromptScores | None = None
    fault: str | None = None
    began: float = 0.0

    def take(self, token: int, logprob: float, top: Top) -> str:
        """Add the next token, and return the text that has become certain with it."""
        if not math.isfinite(logprob):
            return self.fail(logprob)
        answer, new = self.answer, ""
        if token in self.ends:
            answer.finished, self.room = self.ends[token], 0
            answer.end = token, logprob, top
        else:
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            answer.tops.append(top)
            self.room -= 1
            new = self.stream.add(token) if self.stream else ""
        if self.stream:
            if not self.room:
                new += self.stream.finish()
            if self.stream.ended:
                answer.finished, self.room = "stop", 0
            answer.text = self.stream.text
        if not self.room:
            answer.seconds = time.perf_counter() - self.began
        return new

    def fail(self, logprob: float) -> str:
        """End the task because a log-probability is not finite."""
        self.fault, self.room = no_number(logprob), 0
        return ""


TaskUpdate = tuple[Task, str]
"""A task with one token more, or finished, and its new text."""


class ActiveTasks:
    """The tasks in an engine's rows; it is true while there are any."""

    def __init__(self, engine: Engine | Recompute):
        self.engine = engine
        self._running: dict[int, Task] = {}
        self._ahead: tuple[Chosen, dict[int, Task]] | None = None

    def __len__(self) -> int:
        return len(self._running)

    @property
    def free(self) -> int:
        return self.engine.rows - len(self._running)

    def admit(self, tasks: Sequence[Task]) -> Iterator[TaskUpdate]:
        """Start tasks that are not scored, at most as many as are `free`."""
        if not tasks:
            return
        slots = self._slots(len(tasks))
        began = time.perf_counter()
        for task in tasks:
            task.began = began
        prompts = [task.answer.prompt for task in tasks]
        chosen = self.engine.admit(slots, prompts, [task.sampling for task in tasks])
        yield from self._read(chosen, range(len(tasks)), dict(zip(slots, tasks, strict=True)))
        self._start(slots, tasks)

    def admit_scored(self, task: Task) -> Iterator[TaskUpdate]:
        """Start one task whose prompt is scored; it takes a row only for a second token."""
        assert isinstance(self.engine, Engine)
        slots = self._slots(1) if task.room > 1 else [self.engine.rows]
        task.began = time.perf_counter()
        chosen, scored = self.engine.score(slots[0], task.answer.prompt, task.sampling)
        task.scores = jax.device_get(scored)
        logprobs = task.scores.logprob_BT[0, : len(task.answer.prompt) - 1]
        if not np.isfinite(logprobs).all():
            task.fail(float(logprobs[~np.isfinite(logprobs)][0]))
        if not task.room:
            self.engine.clear(slots[0])
            yield task, ""
            return
        yield from self._read(chosen, [0], {slots[0]: task})
        self._start(slots, [task])

    def step(self) -> Iterator[TaskUpdate]:
        """Ask the device for the next tokens, and read those that were asked for before."""
        now = None
        if self._running:
            now = self.engine.step(list(self._running)), dict(self._running)
        ahead, self._ahead = self._ahead, now
        if ahead is not None:
            chosen, tasks = ahead
            yield from self._read(chosen, list(tasks), tasks)
            self._running = {slot: task for slot, task in self._running.items() if task.room}

    def drop(self, task: Task) -> None:
        """End a task early and free its row."""
        task.room = 0
        self._running = {slot: other for slot, other in self._running.items() if other is not task}

    def _slots(self, count: int) -> list[int]:
        empty = (slot for slot in range(self.engine.rows) if slot not in self._running)
        return list(itertools.islice(empty, count))

    def _start(self, slots: Sequence[int], tasks: Sequence[Task]) -> None:
        self._running |= {slot: task for slot, task in zip(slots, tasks, strict=True) if task.room}

    def _read(
        self, chosen: Chosen, rows: Sequence[int], tasks: dict[int, Task]
    ) -> Iterator[TaskUpdate]:
        """Pass on the tokens of these tasks.

        `rows` are their rows of `chosen`, in the same order.
        """
        tokens, logprobs = np.asarray(chosen.token_B), np.asarray(chosen.logprob_B)
        ids, likely = np.asarray(chosen.top_BN), np.asarray(chosen.top_logprob_BN)
        for row, (slot, task) in zip(rows, tasks.items(), strict=True):
            if task.room:  # else it ended while this step was on its way
                top = tuple(zip(ids[row].tolist(), likely[row].tolist(), strict=True))
                new = task.take(int(tokens[row]), float(logprobs[row]), top)
                if task.fault:
                    self.engine.clear(slot)
                yield task, new
