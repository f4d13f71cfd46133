"""All logits of a batch, eager or compiled."""

from collections.abc import Callable

import torch

from tests.bench.sizes import Case
from tests.bench.theirs.model import laid, model_of, precision


def eager(case: Case) -> Callable[[], float]:
    return forward(case, model_of(case).eval())


def compiled(case: Case) -> Callable[[], float]:
    return forward(case, torch.compile(model_of(case).eval()))


def forward(case: Case, model: Callable) -> Callable[[], float]:
    """-> all logits; returns one of them."""
    given = laid(case.tokens(case.length))

    def run() -> float:
        with torch.inference_mode(), precision(case):
            return float(model(given).logits[0, 0, 0])

    return run
