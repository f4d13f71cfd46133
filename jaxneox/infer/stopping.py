"""The conditions that end an answer before its limit of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxneox.data import Tokenizer
from jaxneox.errors import UserError
from jaxneox.infer.sampling import MOST_ENDS, Sampling
from jaxneox.infer.stream import TextStream, check_stop
from jaxneox.infer.tasks import Answer, Finish, Task


@dataclass(frozen=True)
class StopConditions:
    """The conditions that end an answer; the names and their meaning are vLLM's.

    Attributes:
        stop: strings before which the answer ends.
        stop_token_ids: tokens before which it ends, besides the tokenizer's own.
        ignore_eos: whether the tokenizer's end tokens are tokens as any other.
        min_tokens: how many tokens come first. Until then no end token is chosen, also not with
            `ignore_eos`, and a stop string ends nothing if it is complete.
    """

    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    min_tokens: int = 0

    def check(self, tokenizer: Tokenizer | None, vocabulary: int) -> None:
        """Check the conditions against a model.

        Args:
            tokenizer: the model's, if it has one.
            vocabulary: how many tokens the model has.

        Raises:
            UserError: one of them cannot be.
        """
        check_stop(self.stop)
        if self.stop and tokenizer is None:
            raise UserError("stop strings need a tokenizer, and the checkpoint has none")
        for token in self.stop_token_ids:
            if not 0 <= token < vocabulary:
                raise UserError(
                    f"stop token {token}: expected one of the vocabulary, 0 to {vocabulary - 1:,}"
                )
        if self.min_tokens < 0:
            raise UserError(f"min_tokens {self.min_tokens}: expected 0 or more")
        known = min(tokenizer.rows, vocabulary) if tokenizer else vocabulary
        ends = self._all_ends(tokenizer) if self.min_tokens else []
        if len(ends) > MOST_ENDS:
            raise UserError(
                f"{len(ends)} tokens would end an answer; expected {MOST_ENDS} at most with "
                "min_tokens"
            )
        if ends and sum(end < known for end in ends) == known:
            raise UserError("min_tokens: every token would end an answer, so that none is left")

    def task(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        room: int,
        tokenizer: Tokenizer | None,
        *,
        scored: bool = False,
    ) -> Task:
        """Make the task of an answer that ends under these conditions.

        Args:
            prompt: its tokens.
            sampling: how the answer's tokens are chosen.
            room: how many there may be.
            tokenizer: the model's, if it has one.
            scored: whether the prompt's tokens are to have log-probabilities.
        """
        if self.min_tokens:
            ends = tuple(self._all_ends(tokenizer))
            sampling = replace(sampling, min_tokens=self.min_tokens, ends=ends)
        stream = TextStream(tokenizer.decode, self.stop, self.min_tokens) if tokenizer else None
        ends_it: dict[int, Finish] = dict.fromkeys(self.stop_token_ids, "stop")
        if tokenizer and not self.ignore_eos:
            ends_it |= dict.fromkeys(tokenizer.stops, "eod")
        return Task(Answer(list(prompt)), sampling, room, stream, ends_it, scored)

    def _all_ends(self, tokenizer: Tokenizer | None) -> list[int]:
        return sorted({*self.stop_token_ids, *(tokenizer.stops if tokenizer else ())})


MAX_TOKENS_ONLY = StopConditions()
"""Nothing ends an answer but its limit of tokens and the tokenizer's end tokens."""
