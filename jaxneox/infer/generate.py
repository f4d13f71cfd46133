"""Answers to any number of prompts, through one pool of rows."""
# B rows of the pool

import collections
from collections.abc import Callable, Iterator, Sequence

from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.engine import Engine
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.stopping import MAX_TOKENS_ONLY, StopConditions
from jaxneox.infer.tasks import ActiveTasks, Answer, Task, TaskUpdate

Pool = Callable[[int, int, int | None], Engine | Recompute]
"""(rows, positions of each, tokens that the tokenizer has) -> rows that generate together."""


def generate(
    pool: Pool,
    cfg: ModelConfig,
    prompts: Sequence[Sequence[int]],
    tokenizer: Tokenizer | None,
    *,
    sampling: Sequence[Sampling],
    max_tokens: int | None = 64,
    until: StopConditions = MAX_TOKENS_ONLY,
    rows: int = 8,
    on_text: Callable[[int, str], None] | None = None,
    on_answer: Callable[[int, Answer], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Answer]:
    """Generate an answer to each prompt, in their order.

    Args:
        pool: makes the rows.
        cfg: the architecture.
        prompts: at least one token each.
        tokenizer: turns tokens into text; None for answers without text.
        sampling: one for each prompt.
        max_tokens: of each answer; None for as many as the context has room for.
        until: what ends an answer besides.
        rows: how many answers are generated at once.
        on_text: called with (number of the prompt, new text) as soon as it is certain.
        on_answer: called with (number of the prompt, answer) as soon as it is finished.
        cancelled: asked after each token; once it is true, all answers stay as they are.

    Raises:
        UserError: a prompt or a setting cannot be used, or the model gives no numbers.
    """
    until.check(tokenizer, cfg.vocab_size)
    if max_tokens is not None and until.min_tokens > max_tokens:
        raise UserError(
            f"min_tokens {until.min_tokens}: expected max_tokens, {max_tokens}, or less"
        )
    tasks = []
    for number, (prompt, its_sampling) in enumerate(zip(prompts, sampling, strict=True), 1):
        name = f"prompt {number} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
        room = room_for(prompt, cfg, max_tokens, name)
        check_biased(its_sampling, cfg)
        tasks.append(until.task(prompt, its_sampling, room, tokenizer))
    if not tasks:
        return []
    longest = max(len(task.answer.prompt) + task.room for task in tasks)
    engine = pool(min(rows, len(tasks)), longest, tokenizer.rows if tokenizer else None)
    numbers = {task: number for number, task in enumerate(tasks)}
    for task, new in _run(ActiveTasks(engine), tasks):
        if task.fault:
            raise UserError(task.fault)
        if new and on_text:
            on_text(numbers[task], new)
        if not task.room and on_answer:
            on_answer(numbers[task], task.answer)
        if cancelled and cancelled():
            break
    return [task.answer for task in tasks]


def _run(active: ActiveTasks, tasks: Sequence[Task]) -> Iterator[TaskUpdate]:
    waiting = collections.deque(tasks)
    while waiting or active:
        yield from active.admit([waiting.popleft() for _ in range(min(active.free, len(waiting)))])
        yield from active.step()


def context(cfg: ModelConfig) -> int:
    """Return how many tokens the model takes, a prompt with its answer."""
    if cfg.positions.kind != "learned":
        return cfg.seq_length
    return min(cfg.seq_length, cfg.positions.max_positions - cfg.positions.offset)


def room_for(prompt: Sequence[int], cfg: ModelConfig, max_tokens: int | None, name: str) -> int:
    """Return how many tokens may follow a prompt, which errors call `name`."""
    limit = context(cfg)
    if not prompt:
        raise UserError(f"{name} has no tokens; expected at least one")
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"{max_tokens} tokens wanted; expected at least one")
    if len(prompt) >= limit:
        raise UserError(
            f"{name} has {len(prompt):,} tokens: the model's context is {limit:,}, which leaves "
            f"no room for an answer; shorten it to {limit - 1:,} or less"
        )
    wrong = [token for token in prompt if not 0 <= token < cfg.vocab_size]
    if wrong:
        raise UserError(f"{name} has token {wrong[0]}, the vocabulary has {cfg.vocab_size:,}")
    return min(max_tokens or limit, limit - len(prompt))


def check_biased(sampling: Sampling, cfg: ModelConfig) -> None:
    """Refuse a bias for a token that the model does not have."""
    for token, _ in sampling.logit_bias:
        if token >= cfg.vocab_size:
            raise UserError(f"logit_bias: token {token}, the vocabulary has {cfg.vocab_size:,}")
