"""Megatron-LM issue 844: what its optimizer makes of a tied embedding, and what we do."""

from pathlib import Path

import numpy as np
import pytest

from jaxneox.config.schema import RematConfig
from tests.parallel import megatron
from tests.parallel.meshes import Mesh, train
from tests.reference.compare import relative_l2

ROUNDING = 1e-6  # float32 sums in another order
# Adam's first step is the sign of the gradient but where that is as small as its rounding
STEP = 5e-5


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_its_one_step_on_two_stages_and_two_replicas(zero: int, shared: Path) -> None:
    """Rank 1 is the one that holds the embedding's sum: its optimizer has that part."""
    pytest.importorskip("torch")
    case = shared / "golden" / "megatron" / "tiny_gpt2_dp2_distopt"
    golden = np.load(case / "golden.npz")
    rows = np.concatenate([golden["tokens_all_dp"], golden["labels_all_dp"][:, -1:]], axis=1)
    before = megatron.ours(dict(np.load(case / "full_params.npz")))
    found = train(
        Mesh(dp=2, pp=2, zero=zero),
        megatron.MODEL,
        batches=rows[None],
        weights=before,
        optimizer=megatron.ADAM,
        schedule=megatron.CONSTANT,
        remat=RematConfig("none"),
    )
    word = "embedding.word_embeddings.weight"
    grad, start = golden[f"raw_main_grad_after_finalize_pp0_dp1:{word}"], before["embed.tokens"]
    after = megatron.ours(megatron.after_its_step(case))["embed.tokens"]
    assert relative_l2(found.grads["embed.tokens"], grad) <= ROUNDING
    assert relative_l2(found.params["embed.tokens"], after) <= ROUNDING
    assert relative_l2(found.params["embed.tokens"] - start, after - start) <= STEP
