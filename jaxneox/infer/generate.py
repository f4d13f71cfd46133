"""Prompts to answers: any number of them through one pool of rows."""
# B rows of the pool

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from jaxneox.config.schema import Dtype, ModelConfig
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.engine import SHORTEST, Engine, power
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Chosen, Sampling
from jaxneox.infer.stream import TextStream, check_stop
from jaxneox.model import Model, Params
from jaxneox.model.decode import Decoder, Weights
from jaxneox.parallel.mesh import whole
from jaxneox.parallel.rules import rules_for

Finish = Literal["eod", "stop", "length"]


@dataclass
class Answer:
    """What follows a prompt.

    Attributes:
        text: None without a tokenizer. It ends before the stop string.
        tokens: all that were generated but the end-of-document token, those of a stop string too.
        logprobs: of each token as the model has it, before any sampling setting.
        finished: the end-of-document token, a stop string, or no more tokens wanted or possible.
        seconds: from when its prompt was read to its last token.
    """

    prompt: list[int]
    text: str | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: Finish = "length"
    seconds: float = 0.0


@dataclass
class _Task:
    """An answer that is being made."""

    number: int
    answer: Answer
    room: int  # tokens that it may still have
    stream: TextStream | None
    began: float = 0.0


Pool = Callable[[int, int, int | None], Engine | Recompute]
"""(rows, positions of each, tokens that the tokenizer has) -> rows that generate together"""


class Pools:
    """Makes engines, and keeps the last one where it will do, so that nothing is compiled twice.

    Rows are split over all devices but tp's; tp splits heads, widths and the vocabulary.
    """

    def __init__(
        self, cfg: ModelConfig, params: Params, mesh: Mesh, compute: Dtype, *, release: bool = False
    ):
        """`release` takes the arrays out of `params`, so that no two copies are held."""
        self.cfg, self.mesh = cfg, wide(mesh)
        self.decoder = Decoder(Model(cfg, rules_for(dict(self.mesh.shape), 0, False), compute))
        self.weights: Weights = self.decoder.weights(params, self.mesh, release=release)
        self._held: Engine | None = None

    def __call__(self, rows: int, length: int, known: int | None) -> Engine:
        rows = power(rows, 1)
        length = min(power(length, 4 * SHORTEST), self.cfg.seq_length)
        held = self._held
        if held and held.rows >= rows and held.length >= length and held.known == known:
            return held
        self._held = held = None  # its cache goes before the new one comes
        self._held = Engine(
            self.decoder, self.weights, self.mesh, rows=rows, length=length, known=known
        )
        return self._held


def generate(
    pool: Pool,
    cfg: ModelConfig,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer | None,
    *,
    sampling: Sequence[Sampling],
    max_tokens: int | None = 64,
    stop: Sequence[str] = (),
    rows: int = 8,
    on_text: Callable[[int, str], None] | None = None,
    on_answer: Callable[[int, Answer], None] | None = None,
) -> list[Answer]:
    """Answers in the order of the prompts.

    Args:
        prompts: at least one token each.
        sampling: one for each prompt.
        max_tokens: of each answer; None, or more than there is room for, up to the context.
        stop: strings that end an answer; a tokenizer is needed.
        rows: how many answers are made at once.
        on_text: told (number of the prompt, new text) as soon as it is certain.
        on_answer: told (number of the prompt, answer) as soon as it is finished.
    """
    stop = check_stop(stop)
    if stop and tokenizer is None:
        raise UserError("stop strings need a tokenizer, and the checkpoint has none")
    tasks = []
    for number, prompt in enumerate(prompts):
        room = room_for(prompt, cfg, max_tokens)
        stream = TextStream(tokenizer.decode, stop) if tokenizer else None
        tasks.append(_Task(number, Answer(list(prompt)), room, stream))
    if not tasks:
        return []
    longest = max(len(task.answer.prompt) + task.room for task in tasks)
    engine = pool(min(rows, len(tasks)), longest, tokenizer.vocab_size if tokenizer else None)
    eod = None if tokenizer is None else tokenizer.eod
    for task in _run(engine, tasks, sampling, eod, on_text):
        task.answer.seconds = time.perf_counter() - task.began
        if on_answer:
            on_answer(task.number, task.answer)
    return [task.answer for task in tasks]


def _run(
    engine: Engine | Recompute,
    tasks: Sequence[_Task],
    sampling: Sequence[Sampling],
    eod: int | None,
    on_text: Callable[[int, str], None] | None,
) -> Iterator[_Task]:
    """Yields tasks as they finish. The device is always one step ahead of what is read here."""
    waiting, running = collections.deque(tasks), dict[int, _Task]()
    ahead: tuple[Chosen, dict[int, _Task]] | None = None
    while waiting or running:
        free = [slot for slot in range(engine.rows) if slot not in running]
        fresh = {slot: waiting.popleft() for slot in free[: len(waiting)]}
        if fresh:
            began = time.perf_counter()
            for task in fresh.values():
                task.began = began
            prompts = [task.answer.prompt for task in fresh.values()]
            chosen = engine.admit(
                list(fresh), prompts, [sampling[t.number] for t in fresh.values()]
            )
            yield from _read(chosen, dict(enumerate(fresh.values())), eod, on_text)
            running |= {slot: task for slot, task in fresh.items() if task.room}
        now = (engine.step(list(running)), dict(running)) if running else None
        if ahead is not None:
            yield from _read(*ahead, eod, on_text)
            running = {slot: task for slot, task in running.items() if task.room}
        ahead = now


def _read(
    chosen: Chosen,
    tasks: dict[int, _Task],
    eod: int | None,
    on_text: Callable[[int, str], None] | None,
) -> Iterator[_Task]:
    """Adds the tokens of some rows to their answers; yields those that are finished by that."""
    tokens, logprobs = np.asarray(chosen.token_B), np.asarray(chosen.logprob_B)
    for row, task in tasks.items():
        if not task.room:  # it ended while this step was on its way
            continue
        token, new = int(tokens[row]), ""
        if token == eod:
            task.answer.finished, task.room = "eod", 0
        else:
            task.answer.tokens.append(token)
            task.answer.logprobs.append(float(logprobs[row]))
            task.room -= 1
            new = task.stream.add(token) if task.stream else ""
        if task.stream:
            if not task.room:
                new += task.stream.finish()
            if task.stream.ended:
                task.answer.finished, task.room = "stop", 0
            task.answer.text = task.stream.text
            if new and on_text:
                on_text(task.number, new)
        if not task.room:
            yield task


def room_for(prompt: Sequence[int], cfg: ModelConfig, max_tokens: int | None) -> int:
    """How many tokens may follow a prompt."""
    limit = cfg.seq_length
    if cfg.positions.kind == "learned":
        limit = min(limit, cfg.positions.max_positions - cfg.positions.offset)
    if not prompt:
        raise UserError("a prompt has no tokens; expected at least one")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"{max_tokens} tokens wanted; expected at least one")
    if len(prompt) >= limit:
        raise UserError(
            f"a prompt of {len(prompt):,} tokens: the model's context is {limit:,}, which leaves "
            f"no room for an answer; shorten it to {limit - 1:,} or less"
        )
    wrong = [token for token in prompt if not 0 <= token < cfg.vocab_size]
    if wrong:
        raise UserError(f"a prompt has token {wrong[0]}, the vocabulary has {cfg.vocab_size:,}")
    return min(max_tokens or limit, limit - len(prompt))


def wide(mesh: Mesh) -> Mesh:
    """The same devices with all axes but tp as dp: there are no stages, and no length is split."""
    tp = mesh.shape["tp"]
    sizes = whole({"dp": mesh.size // tp, "tp": tp})
    return jax.sharding.Mesh(
        mesh.devices.reshape(tuple(sizes.values())), tuple(sizes), axis_types=mesh.axis_types
    )
