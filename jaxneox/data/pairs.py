"""Pairs of a chosen and a rejected text, which DPO and reward models are trained on."""
# R pairs asked for, S tokens of a sample

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.examples import Fields
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.label_datasets import DOCUMENTS
from jaxneox.data.samples import Span, locate
from jaxneox.data.useful import Side
from jaxneox.data.whole_texts import WholeTexts
from jaxneox.errors import UserError

NOTHING = np.zeros(0, np.int8)  # tokens of no document


class PairExamples:
    """Pairs, the chosen text first.

    Its fields are `tokens` [R, 2, S + 1], `weights` [R], all 1, `labelled` [R, 2, S] and, where a
    reference model's log-probabilities are read, `reference` [R, 2, S].

    Args:
        chosen: one side.
        rejected: the other, by the same index.
    """

    def __init__(self, chosen: WholeTexts, rejected: WholeTexts) -> None:
        self.sides = (chosen, rejected)

    def __len__(self) -> int:
        return len(self.sides[0].samples)

    def fields(self, numbers: NDArray[np.int64]) -> Fields:
        """Read pairs, see `Examples`."""
        chosen, rejected = (side.read(numbers) for side in self.sides)
        fields: Fields = {
            "tokens": np.stack([chosen.tokens, rejected.tokens], axis=1),
            "weights": np.ones(len(numbers), np.float32),
            "labelled": np.stack([chosen.labelled, rejected.labelled], axis=1),
        }
        if chosen.reference is not None and rejected.reference is not None:
            fields["reference"] = np.stack([chosen.reference, rejected.reference], axis=1)
        return fields

    def spans(self, number: int) -> list[tuple[str, IndexedDataset, Span]]:
        return [
            (name, *span)
            for name, side in zip(("chosen", "rejected"), self.sides, strict=True)
            for span in side.samples.spans(number)
        ]

    def locate(self, field: str, number: int, at: tuple[int, ...]) -> str:
        side, column = at
        return locate(self.sides[side].samples, number, column)

    def fingerprint(self) -> dict[str, Any]:
        chosen, rejected = (side.fingerprint() for side in self.sides)
        return {"chosen": chosen, "rejected": rejected}


def check_paired(chosen: IndexedDataset, rejected: IndexedDataset) -> None:
    """Check that there is a rejected text for each chosen one.

    Raises:
        UserError: there is not.
    """
    if len(chosen) != len(rejected):
        raise UserError(
            f"{chosen.idx_path} has {len(chosen)} documents, but {rejected.idx_path} has "
            f"{len(rejected)}: document d of the one must be the pair of document d of the other"
        )


def check_prompts(chosen: Side, rejected: Side, useful: NDArray[np.bool_]) -> None:
    """Check that the two texts of each useful pair begin with the same prompt.

    Raises:
        UserError: they do not; names the first pair.
    """
    documents = np.flatnonzero(useful)
    for first in range(0, len(documents), DOCUMENTS):
        part = documents[first : first + DOCUMENTS]
        alike = chosen.prompts[part] == rejected.prompts[part]
        lengths = chosen.prompts[part[alike]]
        one, other = (
            np.concatenate([NOTHING, *side.texts.ranges(side.texts.begins(part[alike]), lengths)])
            for side in (chosen, rejected)
        )
        differs = np.flatnonzero(one != other)[:1]
        at = np.searchsorted(np.cumsum(lengths), differs, "right")
        wrong = [*part[~alike][:1], *part[alike][at]]
        if wrong:
            raise _other_prompt(chosen.texts, rejected.texts, int(min(wrong)))


def _other_prompt(chosen: IndexedDataset, rejected: IndexedDataset, document: int) -> UserError:
    return UserError(
        f"{rejected.bin_path}: document {document} has another prompt than document {document} of "
        f"{chosen.bin_path}: train_impl: dpo compares two answers to one prompt, which is all "
        "before the first label that is not -100; leave the pair out, or set neox_compat to true, "
        "which trains on it"
    )
