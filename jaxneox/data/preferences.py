"""The examples of a split for training on preferences: pairs, or texts with a reward.

Sources: gpt-neox `megatron/data/pairwise_dataset.py` and `gpt2_dataset.py`. With `neox_compat` a
row is NeoX's: a document, and the first token of the next. Else it is one document alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.config.data_schema import DataConfig
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.data.examples import ExampleBlend, Examples
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.mismatched import Mismatched
from jaxneox.data.neox import FILL, Open, blended, hash_of
from jaxneox.data.order.cache import kept
from jaxneox.data.order.packed import SampleIndex
from jaxneox.data.order.pairwise import overflow_pairs, unpacked_pairs
from jaxneox.data.order.whole_documents import unpacked
from jaxneox.data.pairs import PairExamples, check_paired, check_prompts
from jaxneox.data.rated import KtoExamples, NeoxKtoExamples, ReinforceExamples
from jaxneox.data.reference_logs import open_reference
from jaxneox.data.rewards import Prompts, Rewards, advantages, say_alone
from jaxneox.data.sample_request import SampleRequest
from jaxneox.data.samples import IndexedSamples
from jaxneox.data.useful import Side, useful_documents
from jaxneox.data.whole_texts import WholeTexts


def preference_examples(
    data: DataConfig,
    objective: ObjectiveConfig,
    request: SampleRequest,
    open_: Open,
    masked_token: int | None,
) -> Examples | None:
    """Build the examples of a split; None if it has no datasets.

    Args:
        data: where the data are.
        objective: what is trained for, and so which fields the examples have.
        request: how many examples of which length.
        open_: opens a dataset of tokens or labels.
        masked_token: has no loss where it is the input; None is none.

    Raises:
        UserError: files do not go together, or no example of them can be used.
    """
    source = data.source(request.split)
    if not source.paths:
        return None
    sides = _sides(source.paths, source.labels, open_)
    others = _sides(source.rejected, source.rejected_labels, open_)

    def child(k: int, asked: SampleRequest) -> Examples:
        builder = _Builder(data, objective, asked, masked_token)
        if objective.paired:
            return builder.pairs(sides[k], others[k])
        return builder.rated(sides[k], source.rewards[k])

    return blended(data, request, [side.texts for side in sides], child, ExampleBlend)


def _sides(paths: Sequence[str], labels: Sequence[str], open_: Open) -> list[Side]:
    opened: list[IndexedDataset | None] = [open_(path) for path in labels]
    opened = opened or [None] * len(paths)
    return [Side(open_(path), label) for path, label in zip(paths, opened, strict=True)]


class _Builder:
    """Builds the examples of one dataset, or of the two that have the sides of its pairs."""

    def __init__(
        self,
        data: DataConfig,
        objective: ObjectiveConfig,
        request: SampleRequest,
        masked_token: int | None,
    ) -> None:
        self.data, self.objective, self.request = data, objective, request
        self.masked_token = masked_token
        # Completions for REINFORCE come from a server in NeoX, which gives no more than the text.
        self.as_neox = objective.as_neox and objective.kind != "reinforce"
        self.size = max(1, request.num_samples)

    def pairs(self, chosen: Side, rejected: Side) -> Examples:
        check_paired(chosen.texts, rejected.texts)
        useful = self.useful([chosen, rejected])
        if self.objective.kind == "dpo" and chosen.labels is not None and not self.as_neox:
            check_prompts(chosen, rejected, useful)
        index, identity = self.index([chosen, rejected], useful)
        return PairExamples(
            self.texts(chosen, index, identity), self.texts(rejected, index, identity)
        )

    def rated(self, side: Side, rewards_path: str) -> Examples:
        rewards = Rewards(rewards_path, side.texts)
        useful = self.useful([side])
        index, identity = self.index([side], useful)
        texts = self.texts(side, index, identity)
        rated: dict[str, Any] = {"rewards": rewards.dataset.content}
        if self.objective.kind == "reinforce":
            leave_one_out = self.objective.leave_one_out
            prompts = Prompts(rewards_path, side.texts, leave_one_out)
            relative = advantages(rewards.values, prompts.bounds, leave_one_out=leave_one_out)
            say_alone(prompts, leave_one_out, self.request.split)
            rated |= {"prompts": prompts.content, "leave_one_out": leave_one_out}
            return ReinforceExamples(texts, rewards.values, rated, relative)
        if self.as_neox:
            return NeoxKtoExamples(texts, rewards.values, rated)
        mismatched = Mismatched(
            texts.samples,
            side.prompts,
            useful,
            self.request.seq_length,
            self.reference(side, index, "_kl", side.prompts, useful),
        )
        return KtoExamples(texts, rewards.values, rated, mismatched)

    def useful(self, sides: Sequence[Side]) -> NDArray[np.bool_]:
        return useful_documents(
            sides,
            seq_length=self.request.seq_length,
            pack=self.data.pack,
            allow_chopped=self.data.allow_chopped,
            split=self.request.split,
            as_neox=self.as_neox,
        )

    def index(
        self, sides: Sequence[Side], useful: NDArray[np.bool_]
    ) -> tuple[SampleIndex, dict[str, Any]]:
        """Build the order, and say all that decides it besides the data."""
        size, seed = self.size, self.request.seed
        paired = len(sides) > 1
        identity: dict[str, Any] = {
            "order": f"neox {'pairs ' if paired else ''}{self.data.pack}",
            "allow_chopped": self.data.allow_chopped,
            "documents": len(useful),
            "num_samples": self.request.num_samples,
            "seq_length": self.request.seq_length,
            "seed": seed,
        }

        def build() -> SampleIndex:
            if not paired:
                return unpacked(useful, num_samples=size, seed=seed)
            if self.data.pack == "unpacked":
                return unpacked_pairs(useful, num_samples=size, seed=seed)
            return overflow_pairs(
                sides[0].texts.sizes,
                sides[1].texts.sizes,
                useful,
                num_samples=size,
                seq_length=self.request.seq_length,
                seed=seed,
            )

        key = {
            **identity,
            "sizes": [side.texts.content["sizes"] for side in sides],
            "useful": hash_of(useful),
        }
        found = kept(sides[0].texts.prefix, key, 3 * size + len(useful), build)
        return SampleIndex(*found), identity

    def texts(self, side: Side, index: SampleIndex, identity: dict[str, Any]) -> WholeTexts:
        """Read one side by the index."""
        return WholeTexts(
            self.samples(side.texts, side.labels, index, identity),
            self.reference(side, index),
            masked_token=self.masked_token,
            fill_counts=self.as_neox,
        )

    def reference(
        self, side: Side, index: SampleIndex, suffix: str = "", *decide: NDArray[Any]
    ) -> IndexedSamples | None:
        """Read the log-probabilities of one side by the index, if they are to be read."""
        name = self.objective.reference
        if name is None or not self.objective.has_reference:
            return None
        dataset = open_reference(side.texts, f"{name}{suffix}", self.request.seq_length, *decide)
        return self.samples(dataset, None, index, {})

    def samples(
        self,
        dataset: IndexedDataset,
        labels: IndexedDataset | None,
        index: SampleIndex,
        identity: dict[str, Any],
    ) -> IndexedSamples:
        extra = int(self.as_neox)  # the first token of the next document
        return IndexedSamples(
            dataset, labels, index,
            seq_length=self.request.seq_length, length=self.size - 1, extra=extra, fill=FILL,
            identity={**identity, "extra": extra},
        )  # fmt: skip
