"""Answers in OpenAI's format, whole or chunk by chunk."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from jaxneox.infer.tasks import Answer, Task, Top
from jaxneox.serve.offsets import Offsets, prompt_offsets
from jaxneox.serve.requests import CompletionRequest
from jaxneox.serve.served import Served

Part = dict[str, Any]
Scored = tuple[int, float | None, Top]
"""A token, its log-probability, and the most likely ones in its place."""


class Reply:
    """The answer to one request. `frame` surrounds it, and each chunk of a stream."""

    ID = "cmpl"

    def __init__(self, served: Served, completion: CompletionRequest):
        self._completion = completion
        self.frame: Part = {
            "id": f"{self.ID}-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
        }
        self.choices = [
            self._choice(served, completion, index) for index in range(len(completion.choices))
        ]

    def openings(self) -> list[Part]:
        """Return the chunks with which a stream begins, before there is any token."""
        return []

    def whole(self) -> Part:
        parts = [self.choices[number].part(self._tasks[number]) for number in self._returned()]
        choices = [part | {"index": index} for index, part in enumerate(parts)]
        return self.frame | {"choices": choices, "usage": self.usage()}

    def _returned(self) -> list[int]:
        """List the answers that are returned: of each prompt's the n likeliest, best first."""
        n, made = self._completion.n, len(self._tasks) // len(self._completion.prompts)
        if n == made:
            return list(range(len(self._tasks)))
        likely = [likelihood(task.answer) for task in self._tasks]
        every = [range(first, first + made) for first in range(0, len(likely), made)]
        return [i for own in every for i in sorted(own, key=lambda i: -likely[i])[:n]]

    def usage(self, *, so_far: bool = False) -> Part:
        """Count the tokens of all prompts and answers, or `so_far` those that have been told."""
        prompt = sum(len(prompt.tokens) for prompt in self._completion.prompts)
        told = sum(choice.told for choice in self.choices)
        answer = told if so_far else sum(len(task.answer.tokens) for task in self._tasks)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    def _choice(self, served: Served, completion: CompletionRequest, index: int) -> "Choice":
        return Choice(served, completion, index)

    @property
    def _tasks(self) -> list[Task]:
        return self._completion.choices


def likelihood(answer: Answer) -> float:
    """Return the mean log-probability of an answer's tokens, of the one that ended it as well."""
    logprobs = [*answer.logprobs, *([answer.end[1]] if answer.end else [])]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0


class Choice:
    """One choice of an answer; each `part` continues where the one before ended.

    Attributes:
        told: how many tokens the parts have by now.
    """

    def __init__(self, served: Served, completion: CompletionRequest, index: int):
        self._served, self._completion, self.index = served, completion, index
        self._prompt = completion.prompt_of(index)
        self._begun = False
        self.told = 0
        self._echo = self._echoed() if completion.echo else ""
        self._offsets = Offsets(served, self._echo)

    def part(
        self, task: Task, text: str | None = None, tokens: int | None = None, finished: bool = True
    ) -> Part:
        """Write the next part of a choice.

        Args:
            task: the task, with its answer so far.
            text: the new text; all of it unless given.
            tokens: how many tokens the answer has by now; all of them unless given.
            finished: whether this is the last part.
        """
        answer, completion = task.answer, self._completion
        text = (answer.text or "") if text is None else text
        start, end = self.told, len(answer.tokens) if tokens is None else tokens
        first, self._begun, self.told = not self._begun, True, end
        body = self._body(text, first=first, finished=finished)
        body |= {"logprobs": None, "finish_reason": None}
        if finished:
            body["finish_reason"] = "length" if answer.finished == "length" else "stop"
        if completion.logprobs is not None:
            body["logprobs"] = self._likely(task, start, end, first=first, finished=finished)
        return body | self._numbers(task, start, end, first=first) if completion.token_ids else body

    def _body(self, text: str, *, first: bool, finished: bool) -> Part:
        echoed = self._completion.echo and first
        return {"index": self.index, "text": self._echo + text if echoed else text}

    def _likely(self, task: Task, start: int, end: int, *, first: bool, finished: bool) -> Part:
        """Write the log-probabilities of the part's tokens, and of the one that ended them."""
        answer = task.answer
        scored = self._of_prompt(task) if self._completion.echo and first else []
        ended = [answer.end] if finished and answer.end is not None else []
        return self._logprobs(scored, [*self._fresh(task, start, end), *ended])

    def _fresh(self, task: Task, start: int, end: int) -> list[Scored]:
        answer, span = task.answer, slice(start, end)
        rows = zip(answer.tokens[span], answer.logprobs[span], answer.tops[span], strict=True)
        return list(rows)

    def _numbers(self, task: Task, start: int, end: int, *, first: bool) -> Part:
        ids: Part = {"token_ids": task.answer.tokens[start:end]}
        return ids | ({"prompt_token_ids": self._prompt.tokens} if first else {})

    def _echoed(self) -> str:
        text = self._prompt.text
        return self._served.decode(self._prompt.tokens) if text is None else text

    def _of_prompt(self, task: Task) -> list[Scored]:
        """Return the prompt's tokens with their scores.

        The first has none, since nothing precedes it.
        """
        assert task.scores is not None
        after = len(self._prompt.tokens) - 1
        logprobs, ids, likely = (x[0, :after].tolist() for x in task.scores)
        tops = [tuple(zip(*top, strict=True)) for top in zip(ids, likely, strict=True)]
        pairs = zip(self._prompt.tokens, [None, *logprobs], [(), *tops], strict=True)
        return list(pairs)

    def _logprobs(self, prompt: Sequence[Scored], answer: Sequence[Scored]) -> Part:
        piece, scored = self._served.piece, [*prompt, *answer]
        offsets = self._prompt_offsets() if prompt else []
        offsets += [self._offsets.next(token) for token, *_ in answer]
        tops: list[dict[str, float] | None] = []
        for token, logprob, top in scored:
            if logprob is None:
                tops.append(None)
                continue
            likeliest: dict[str, float] = {}
            for other, likely in (*top[: self._completion.logprobs], (token, logprob)):
                likeliest.setdefault(piece(other), likely)  # of equal texts the likeliest
            tops.append(likeliest)
        return {
            "tokens": [piece(token) for token, *_ in scored],
            "token_logprobs": [logprob for _, logprob, _ in scored],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _prompt_offsets(self) -> list[int]:
        prompt = self._prompt
        return prompt_offsets(self._served, prompt.text, prompt.tokens, self._echo)
