"""A vocabulary that tp does not divide: the same losses, gradients and updates, in true shapes."""

import dataclasses

import numpy as np
import pytest

from jaxneox.config.schema import ModelConfig
from tests.parallel.cases import GRADIENT, LOSS, NORM, PARAMETER
from tests.parallel.meshes import MODEL, Mesh, apart, tokens, train

ODD = dataclasses.replace(MODEL, vocab_size=MODEL.vocab_size + 1)
BIASED = dataclasses.replace(ODD, logit_bias=True)
TIED = dataclasses.replace(ODD, tied_embedding=True)

CASES: dict[str, tuple[Mesh, ModelConfig]] = {
    "tp=2": (Mesh(tp=2), ODD),
    "tp=4, with a bias, partial sums of the gradient": (Mesh(dp=2, tp=4, accumulation=2), BIASED),
    "tied, ZeRO 3, sequence parallel": (Mesh(dp=2, tp=2, zero=3, sequence=True), TIED),
    "stages, ZeRO 1": (Mesh(pp=2, dp=2, tp=2, zero=1, accumulation=2), TIED),
    "a split length, ZeRO 2": (Mesh(dp=2, cp=2, tp=2, zero=2, accumulation=2), BIASED),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_the_same_on_every_mesh(name: str) -> None:
    mesh, model = CASES[name]
    batches = tokens()
    batches[:, :, 3] = model.vocab_size - 1  # the last token is learned as well
    expected, found = train(Mesh(), model, batches=batches), train(mesh, model, batches=batches)
    assert found.losses == pytest.approx(expected.losses, rel=LOSS)
    assert found.norms == pytest.approx(expected.norms, rel=NORM)
    assert max(apart(found.grads, expected.grads).values()) <= GRADIENT
    assert max(apart(found.params, expected.params).values()) <= PARAMETER
    assert {n: w.shape for n, w in found.params.items()} == {
        n: np.shape(w) for n, w in expected.params.items()
    }
