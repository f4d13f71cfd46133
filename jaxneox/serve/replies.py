"""What is said of a choice, in OpenAI's words: whole, or piece by piece."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from jaxneox.infer.batch import Task, Top
from jaxneox.infer.stream import TextStream
from jaxneox.serve.requests import Wish
from jaxneox.serve.served import Served

Part = dict[str, Any]


class Reply:
    """Of one request. `frame` is what its answer, and each chunk of a stream, has around them."""

    def __init__(self, served: Served, wish: Wish):
        self._wish = wish
        self.frame: Part = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
        }
        self.choices = [Choice(served, wish, index) for index in range(len(wish.choices))]

    def whole(self) -> Part:
        said = [choice.part(task) for choice, task in zip(self.choices, self._tasks, strict=True)]
        return self.frame | {"choices": said, "usage": self.usage()}

    def usage(self) -> Part:
        prompt = sum(len(prompt.tokens) for prompt in self._wish.prompts)
        answer = sum(len(task.answer.tokens) for task in self._tasks)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    @property
    def _tasks(self) -> list[Task]:
        return self._wish.choices


class Choice:
    """One answer as it is told; each `part` goes on where the one before ended."""

    def __init__(self, served: Served, wish: Wish, index: int):
        self._served, self._wish, self.index = served, wish, index
        self._prompt = wish.prompt_of(index)
        self._begun = False
        self._told = 0  # tokens
        self._offsets = Offsets(served)

    def part(
        self, task: Task, text: str | None = None, tokens: int | None = None, finished: bool = True
    ) -> Part:
        """`text` is new; the answer has `tokens` by now. All of it unless given."""
        answer, wish = task.answer, self._wish
        text = (answer.text or "") if text is None else text
        start, end = self._told, len(answer.tokens) if tokens is None else tokens
        first, self._begun, self._told = not self._begun, True, end
        echoed = wish.echo and first
        said: Part = {
            "index": self.index,
            "text": self._echo() + text if echoed else text,
            "logprobs": None,
            "finish_reason": None,
        }
        if finished:
            said["finish_reason"] = "length" if answer.finished == "length" else "stop"
        if wish.logprobs is not None:
            places = self._of_prompt(task) if echoed else []
            span = slice(start, end)
            fresh = zip(answer.tokens[span], answer.logprobs[span], answer.tops[span], strict=True)
            ended = [answer.end] if finished and answer.end is not None else []
            said["logprobs"] = self._logprobs([*places, *fresh, *ended])
        if wish.token_ids:
            said["token_ids"] = answer.tokens[start:end]
            said |= {"prompt_token_ids": self._prompt.tokens} if first else {}
        return said

    def _echo(self) -> str:
        text = self._prompt.text
        return self._served.decode(self._prompt.tokens) if text is None else text

    def _of_prompt(self, task: Task) -> list[tuple[int, float | None, Top]]:
        """Nothing is known of the first token: nothing is before it."""
        assert task.scores is not None
        after = len(self._prompt.tokens) - 1
        logprobs, ids, likely = (x[0, :after].tolist() for x in task.scores)
        tops = [tuple(zip(*top, strict=True)) for top in zip(ids, likely, strict=True)]
        pairs = zip(self._prompt.tokens, [None, *logprobs], [(), *tops], strict=True)
        return list(pairs)

    def _logprobs(self, places: Sequence[tuple[int, float | None, Top]]) -> Part:
        piece = self._served.piece
        tops: list[dict[str, float] | None] = []
        for token, logprob, top in places:
            if logprob is None:
                tops.append(None)
                continue
            found: dict[str, float] = {}
            for other, likely in (*top[: self._wish.logprobs], (token, logprob)):
                found.setdefault(piece(other), likely)  # of equal texts the likeliest
            tops.append(found)
        return {
            "tokens": [piece(token) for token, *_ in places],
            "token_logprobs": [logprob for _, logprob, _ in places],
            "top_logprobs": tops,
            "text_offset": [self._offsets.next(token) for token, *_ in places],
        }


class Offsets:
    """At which character of the text each token begins."""

    def __init__(self, served: Served):
        self._stream = TextStream(served.decode)

    def next(self, token: int) -> int:
        place = len(self._stream.text)
        self._stream.add(token)
        return place
