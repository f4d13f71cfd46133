"""Answers with a cache against answers without one: every variant of the model, ragged prompts."""

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from jaxneox.config.schema import ModelConfig
from jaxneox.infer.generate import Answer, generate
from jaxneox.infer.pools import Pools
from jaxneox.infer.recompute import Recompute
from jaxneox.infer.sampling import Sampling
from jaxneox.model import Model
from jaxneox.parallel.mesh import make_mesh, parse_mesh, whole
from jaxneox.parallel.rules import rules_for
from tests.model.variants import configure
from tests.reference.parameters import random_params

VARIANTS = [
    "",
    "parallel shared_norm",
    "parallel attention_dropped no_mlp_bias swiglu untied logit_bias",
    "untied rmsnorm full_rotary swiglu gqa no_attention_bias no_mlp_bias",
    "learned_offset relu gqa",
    "alibi six_heads silu parallel",
    "rpe six_heads parallel reglu untied",
    "sinusoidal scalenorm parallel shared_norm mqa bilinear",
    "no_positions mqa silu",
    "window mqa parallel untied bilinear",
    "window alibi gqa rmsnorm",
    "qk_norm gqa parallel untied",
    "qk_norm six_heads rpe rmsnorm swiglu",
    "qk_norm non_parametric mqa alibi",
    "qk_norm unbiased_norm learned window",
    "no_output_bias gqa swiglu rmsnorm no_mlp_bias window",
    "rmsnorm qk_norm_per_head wide_heads gqa linear",
    "rmsnorm qk_norm_joint gqa",
    "yarn mqa no_output_bias",
    "rmsnorm qk_norm_per_head llama3 gqa",
    "mamba rmsnorm untied",
    "mamba_groups no_attention no_positions",
]
"""Every way to know positions, every residual style, every grouping of heads."""

MESHES = {
    "tp=2": ["", "parallel untied gelu_tanh", "alibi parallel"],
    "dp=2,tp=2": [
        "rpe relu",
        "qk_norm gqa parallel untied",
        "window alibi gqa rmsnorm",
        "rmsnorm qk_norm_joint gqa",
    ],
    "pp=2,cp=2,tp=2": ["learned_offset relu gqa", "rmsnorm qk_norm_per_head wide_heads gqa yarn"],
    "dp=2": ["wide_heads dynamic parallel untied"],
    "dp=2,tp=4": ["mamba rmsnorm", "mamba_biases parallel alibi"],
}
LENGTHS = (7, 1, 4, 12)


class OnMesh:
    """A random model, made once, that generates with and without a cache."""

    def __init__(self, cfg: ModelConfig, mesh: str):
        sizes = whole(parse_mesh(mesh))
        self.cfg, self.mesh, self.rules = cfg, make_mesh(sizes), rules_for(sizes, 0, False)
        self.params = {n: jax.numpy.asarray(w) for n, w in random_params(cfg, seed=7).items()}

    def prompts(self) -> list[list[int]]:
        rng = np.random.default_rng(8)
        return [rng.integers(0, self.cfg.vocab_size, n).tolist() for n in LENGTHS]

    def cached(self, sampling: Sequence[Sampling], rows: int = 4) -> list[Answer]:
        pools = Pools(self.cfg, self.params, self.mesh, "float32")
        return self.run(pools, sampling, rows)

    def recomputed(self, sampling: Sequence[Sampling]) -> list[Answer]:
        model = Model(self.cfg, self.rules)

        def pool(rows: int, length: int, known: int | None) -> Recompute:
            params = jax.device_put(self.params, self._whole())
            return Recompute(model, params, self.mesh, rows=rows, length=length, known=known)

        return self.run(pool, sampling, 4)

    def run(self, pool, sampling: Sequence[Sampling], rows: int) -> list[Answer]:
        return generate(
            pool,
            self.cfg,
            self.prompts(),
            None,
            sampling=sampling,
            max_tokens=None,
            rows=rows,
        )

    def _whole(self) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, jax.P())


def compare(answers: list[Answer], expected: list[Answer], context: int) -> None:
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    assert [len(answer.tokens) for answer in answers] == [context - n for n in LENGTHS]
    for answer, other in zip(answers, expected, strict=True):
        # Sums over 40 tokens and 36 widths in two orders, float32; measured up to 2e-6.
        np.testing.assert_allclose(answer.logprobs, other.logprobs, rtol=0, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_answers_are_those_without_a_cache(variant: str) -> None:
    cfg = configure(variant)
    case, greedy = OnMesh(cfg, "dp=1"), [Sampling()] * 4
    compare(case.cached(greedy), case.recomputed(greedy), cfg.seq_length)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "variant"), [(mesh, v) for mesh, variants in MESHES.items() for v in variants]
)
def test_meshes_give_the_answers_of_one_device(mesh: str, variant: str) -> None:
    cfg = configure(variant)
    greedy = [Sampling()] * 4
    case = OnMesh(cfg, mesh)
    compare(case.cached(greedy), OnMesh(cfg, "dp=1").cached(greedy), cfg.seq_length)
