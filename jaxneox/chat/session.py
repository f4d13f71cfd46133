"""The turns of a conversation, and the model's next one."""

from collections.abc import Callable

from jaxneox.errors import UserError
from jaxneox.infer.generate import context
from jaxneox.infer.sampling import Sampling
from jaxneox.infer.stream import check_text
from jaxneox.loading import LoadedModel
from jaxneox.templates.prompts import ChatPrompts


class ChatSession:
    """A conversation so far, from the system's message on."""

    def __init__(
        self,
        model: LoadedModel,
        prompts: ChatPrompts,
        sampling: Sampling,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        stop: tuple[str, ...] = (),
        stop_token_ids: tuple[int, ...] = (),
    ):
        """Begin a conversation.

        Args:
            model: answers.
            prompts: writes the conversation as the model was taught to read it.
            sampling: how answers are drawn; each next one has the next seed.
            system: what the model is told first.
            max_tokens: of each answer; None for all that the context has room for.
            stop: strings before which an answer ends.
            stop_token_ids: tokens before which it ends, besides the tokenizer's.
        """
        self._model, self._prompts, self._sampling = model, prompts, sampling
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self._max_tokens, self._stop = max_tokens, stop
        vocabulary = model.config.model.vocab_size
        ends = [end for end in prompts.ends if end < vocabulary]  # others are never chosen
        self._stop_token_ids = (*stop_token_ids, *ends)
        self._answers = 0
        self.messages = [*self._first]

    def reset(self) -> None:
        """Forget all but the system's message."""
        self.messages = [*self._first]

    def answer(
        self, text: str, on_text: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> str:
        """Answer a message, and remember both; an error leaves the conversation as it was.

        Args:
            text: the message.
            on_text: called with each new piece of the answer.
            cancelled: asked after each token; the answer ends where it is true.

        Raises:
            UserError: the message cannot be read, the conversation is longer than the context, or
                the model gives no numbers.
        """
        check_text(text, "the message")
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = self._prompts.encode(self._prompts.render(asked))
        limit = context(self._model.config.model)
        if len(prompt) >= limit:
            raise UserError(
                f"the conversation has {len(prompt):,} tokens with this message, and the model's "
                f"context is {limit:,}; begin anew (/reset), or shorten the message"
            )
        sampling = self._sampling
        (answer,) = self._model.generate(
            [prompt],
            max_tokens=self._max_tokens,
            stop=self._stop,
            stop_token_ids=self._stop_token_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=(sampling.seed + self._answers) % 2**32,
            on_text=lambda _, new: on_text(new),
            cancelled=cancelled,
        )
        self._answers += 1
        said = answer.text or ""
        self.messages = [*asked, {"role": "assistant", "content": said}]
        return said
