"""Answers in the form of OpenAI's chat completions, whole or chunk by chunk."""

from collections.abc import Sequence

from jaxneox.infer.tasks import Task
from jaxneox.serve.replies import Choice, Part, Reply, Scored
from jaxneox.serve.requests import CompletionRequest
from jaxneox.serve.served import Served


class ChatReply(Reply):
    """The answer to a chat request."""

    ID = "chatcmpl"

    def __init__(self, served: Served, completion: CompletionRequest):
        super().__init__(served, completion)
        self.frame["object"] = "chat.completion" + ".chunk" * completion.stream

    def whole(self) -> Part:
        return super().whole() | self._prompt_ids()

    def openings(self) -> list[Part]:
        """Return what a stream begins with: the role of each choice."""
        delta = {"role": "assistant", "content": ""}
        more = {"logprobs": None, "finish_reason": None}
        parts = [
            self.frame | {"choices": [{"index": choice.index, "delta": delta} | more]}
            for choice in self.choices
        ]
        return [parts[0] | self._prompt_ids(), *parts[1:]]

    def _choice(self, served: Served, completion: CompletionRequest, index: int) -> Choice:
        return ChatChoice(served, completion, index)

    def _prompt_ids(self) -> Part:
        (prompt,) = self._completion.prompts
        return {"prompt_token_ids": prompt.tokens} if self._completion.token_ids else {}


class ChatChoice(Choice):
    """One choice of a chat's answer."""

    def _body(self, text: str, *, first: bool, finished: bool) -> Part:
        if not self._completion.stream:
            message = {"role": "assistant", "content": text, "refusal": None}
            return {"index": self.index, "message": message}
        delta = {} if finished and not text else {"content": text}
        return {"index": self.index, "delta": delta}

    def _likely(self, task: Task, start: int, end: int, *, first: bool, finished: bool) -> Part:
        return {"content": self._content(self._fresh(task, start, end)), "refusal": None}

    def _content(self, scored: Sequence[Scored]) -> list[Part]:
        """Write the tokens of the message; the one that ends it is none of them."""
        tops = self._completion.logprobs
        return [
            self._token(token, logprob)
            | {"top_logprobs": [self._token(*one) for one in top[:tops]]}
            for token, logprob, top in scored
        ]

    def _token(self, token: int, logprob: float | None) -> Part:
        """Write a token; its bytes are not known where it has no text of its own."""
        piece = self._served.piece(token)
        alone = None if piece == f"token_id:{token}" else list(piece.encode())
        return {"token": piece, "logprob": logprob, "bytes": alone}

    def _numbers(self, task: Task, start: int, end: int, *, first: bool) -> Part:
        return {"token_ids": task.answer.tokens[start:end]}
