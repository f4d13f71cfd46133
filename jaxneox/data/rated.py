"""Texts with a reward, which KTO and REINFORCE are trained on."""
# R texts asked for, S tokens of a sample

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.examples import Fields
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.mismatched import Mismatched
from jaxneox.data.samples import Span, locate
from jaxneox.data.whole_texts import WholeTexts


class RatedExamples:
    """What the kinds of rated texts share: `tokens` [R, S + 1] and, if any, `reference` [R, S].

    Args:
        texts: the texts.
        rewards: [N], of each document.
        identity: what the fingerprint says of the rewards.
    """

    def __init__(self, texts: WholeTexts, rewards: NDArray[Any], identity: dict[str, Any]) -> None:
        self.texts, self.rewards, self._identity = texts, rewards, identity

    def __len__(self) -> int:
        return len(self.texts.samples)

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read texts, see `Examples`; `labelled` [R, S] as well."""
        rows = self.texts.read(numbers)
        fields: Fields = {"tokens": rows.tokens, "labelled": rows.labelled}
        return fields if rows.reference is None else fields | {"reference": rows.reference}

    def spans(self, number: int) -> list[tuple[str, IndexedDataset, Span]]:
        return [("", *span) for span in self.texts.samples.spans(number)]

    def locate(self, field: str, number: int, at: tuple[int, ...]) -> str:
        return locate(self.texts.samples, number, at[0])

    def fingerprint(self) -> dict[str, Any]:
        return {**self.texts.fingerprint(), **self._identity}


class NeoxKtoExamples(RatedExamples):
    """KTO's texts as NeoX lays them out: `labelled` and `rewards` [R, S], and `weights` [R] of 1.

    A text's reward stands once for each of its tokens, then that of the next text for the one token
    that the row has of it, and then 0.
    """

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read texts, see `Examples`."""
        fields = super().fields(numbers)
        rewards = np.zeros(fields["tokens"].shape, np.float32)
        row, column, document, _, length = self.texts.samples.columns(numbers)
        for r, begin, size, reward in zip(row, column, length, self.rewards[document], strict=True):
            rewards[r, begin : begin + size] = reward
        weights = np.ones(len(numbers), np.float32)
        return fields | {"weights": weights, "rewards": rewards[:, :-1]}


class KtoExamples(RatedExamples):
    """KTO's texts, and beside each the mismatched one from which the baseline is estimated.

    Its fields besides those of `RatedExamples` are `labelled` [R, S], `weights` [R] of 1, `reward`
    [R], `kl_tokens` [R, S + 1], `kl_labelled` [R, S] and, if any, `kl_reference` [R, S].
    """

    def __init__(
        self,
        texts: WholeTexts,
        rewards: NDArray[Any],
        identity: dict[str, Any],
        mismatched: Mismatched,
    ) -> None:
        super().__init__(texts, rewards, identity)
        self.mismatched = mismatched

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read texts, see `Examples`."""
        documents = self.texts.samples.first_documents(numbers)
        other = self.mismatched.read(documents)
        logs = self.mismatched.reference(numbers)
        return {
            **super().fields(numbers),
            "weights": np.ones(len(numbers), np.float32),
            "reward": self.rewards[documents].astype(np.float32),
            "kl_tokens": other.tokens,
            "kl_labelled": self.texts.labelled(other),
            **({} if logs is None else {"kl_reference": logs}),
        }

    def locate(self, field: str, number: int, at: tuple[int, ...]) -> str:
        if field != "kl_tokens":
            return super().locate(field, number, at)
        (document,) = self.texts.samples.first_documents(np.array([number]))
        return self.mismatched.locate(int(document), at[0])

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "mismatched": self.mismatched.fingerprint()}


class ReinforceExamples(RatedExamples):
    """REINFORCE's completions: `weights` [R, S], the labels that count, and the rewards [R].

    `reward` is the advantage, `raw_reward` what the file says.
    """

    def __init__(
        self,
        texts: WholeTexts,
        rewards: NDArray[Any],
        identity: dict[str, Any],
        advantages: NDArray[np.float32],
    ) -> None:
        super().__init__(texts, rewards, identity)
        self._advantages = advantages

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read texts, see `Examples`."""
        fields = super().fields(numbers)
        documents = self.texts.samples.first_documents(numbers)
        return fields | {
            "weights": fields.pop("labelled"),
            "reward": self._advantages[documents],
            "raw_reward": self.rewards[documents].astype(np.float32),
        }
