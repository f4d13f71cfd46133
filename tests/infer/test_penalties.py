"""OpenAI's penalties and logit_bias: their definition; alone, in company and without a cache."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.errors import UserError
from jaxneox.infer.penalties import penalize, penalty_arrays
from jaxneox.infer.sampling import Sampling
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker

HOWS = [
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7, "temperature": 0.8, "seed": 3},
    {"presence_penalty": -2.0, "frequency_penalty": 2.0},
    {"logit_bias": {322: -100.0, 65: 3.5}},
    {"logit_bias": {66: 100.0}, "frequency_penalty": 2.0, "temperature": 1.0, "top_k": 9},
]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return speaker()


def test_what_is_added() -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence + bias[j]: OpenAI's formula."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 9)).astype(np.float32)
    counts = rng.integers(0, 4, (3, 9))
    presence, frequency = [0.5, 0.0, -1.0], [0.0, 1.25, 2.0]
    biases = [(), ((8, -100.0), (2, 3.5), (500, 7.0)), ((0, 1.0),)]
    expected = logits.astype(np.float64)
    for row in range(3):
        expected[row] -= counts[row] * frequency[row] + (counts[row] > 0) * presence[row]
        for token, bias in biases[row]:
            if token < 9:  # one that the tokenizer does not have is never chosen
                expected[row, token] += bias
    arrays = penalty_arrays(presence, frequency, biases)
    found = jax.jit(penalize)(jnp.asarray(logits), arrays, jnp.asarray(counts))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # float32 beside 100


@pytest.mark.parametrize("how", HOWS[1:], ids=str)
def test_answers_are_those_of_a_plain_loop(model: LoadedModel, how: dict) -> None:
    """Greedy by the model's own logits, less what the formula takes; a prompt's tokens are free."""
    how = {name: value for name, value in how.items() if name not in ("temperature", "top_k")}
    prompt, tokens = model.encode("The old man the"), []
    for _ in range(20):
        row = [*prompt, *tokens]
        padded = np.array([row + [0] * (48 - len(row))])  # causal: what follows changes nothing
        logits = np.asarray(model(padded))[0, len(row) - 1, :512].copy()
        for token, count in Counter(tokens).items():
            logits[token] -= how.get("presence_penalty", 0) + count * how.get(
                "frequency_penalty", 0
            )
        for token, bias in how.get("logit_bias", {}).items():
            logits[token] += bias
        tokens.append(int(logits.argmax()))
    (answer,) = model.generate([prompt], max_tokens=20, ignore_eos=True, **how)
    assert answer.tokens == tokens
    free = model.generate([prompt], max_tokens=20, ignore_eos=True)[0]
    assert tokens != free.tokens  # it makes a difference


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_cache_and_company_change_nothing(model: LoadedModel, how: dict) -> None:
    (alone,) = model.generate(["The"], max_tokens=20, **how)
    (slow,) = model.generate(["The"], max_tokens=20, recompute=True, **how)
    assert alone.tokens == slow.tokens
    how = {**how, "seed": how.get("seed", 0) - 2}
    company = model.generate(["x", "old man", "The", "a b"], max_tokens=20, rows=2, **how)
    assert company[2].tokens == alone.tokens


@pytest.mark.parametrize("recompute", [False, True])
def test_a_row_forgets_the_answer_before(model: LoadedModel, recompute: bool) -> None:
    how = {"frequency_penalty": 2.0, "max_tokens": 15, "rows": 1, "recompute": recompute}
    twice = model.generate(["The", "The", "The"], **how)
    assert twice[0].tokens == twice[1].tokens == twice[2].tokens


@pytest.mark.slow
def test_a_mesh_changes_nothing() -> None:
    split = speaker(mesh="dp=2,tp=2")
    for how in HOWS[1:4]:
        one = [a.tokens for a in speaker().generate(["The", "x"], max_tokens=12, **how)]
        assert [a.tokens for a in split.generate(["The", "x"], max_tokens=12, **how)] == one


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"presence_penalty": 2.1}, "presence_penalty 2.1: expected a number from -2 to 2"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty nan"),
        ({"logit_bias": ((5, 101.0),)}, "logit_bias of token 5: 101.0"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias: -1"),
        ({"logit_bias": tuple((i, 1.0) for i in range(1025))}, "logit_bias: 1025 tokens"),
    ],
)
def test_wrong_settings_are_named(wrong: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Sampling(**wrong)


def test_a_bias_for_no_token_of_the_model(model: LoadedModel) -> None:
    with pytest.raises(UserError, match="logit_bias: token 640, the vocabulary has 640"):
        model.generate("x", logit_bias={640: 1.0})
