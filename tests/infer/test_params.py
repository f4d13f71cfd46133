"""A model's weights are never changed under it: another model has other weights."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker

TOKENS = np.arange(12, dtype=np.int32).reshape(1, -1)
NAME = "embed.tokens"
PAIRS = [("The", " quick")]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return speaker()


def test_params_cannot_be_changed_in_place(model: LoadedModel) -> None:
    params, weight = model.params, model.params[NAME]
    changes = (
        lambda: params.__setitem__(NAME, weight),
        lambda: params.__delitem__(NAME),
        lambda: params.update({NAME: weight}),
        lambda: params.pop(NAME),
        lambda: params.popitem(),
        lambda: params.clear(),
        lambda: params.setdefault(NAME, weight),
        lambda: params.__ior__({NAME: weight}),
        lambda: setattr(model, "params", params),
    )
    for change in changes:
        with pytest.raises(TypeError, match=r"model\.with_params"):
            change()
    assert model.params.keys() == params.keys() and model.params[NAME] is weight


def test_params_are_read_as_a_dictionary(model: LoadedModel) -> None:
    params = model.params
    plain = dict(params)
    assert params == plain and isinstance(params | {"x": params[NAME]}, dict)
    leaves, _ = jax.tree.flatten(params)
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(plain), strict=True))
    keys = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    assert keys == [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(plain)]
    assert type(jax.tree.map(lambda w: w, params)) is dict
    assert float(jax.jit(lambda p: p[NAME].sum())(params)) == float(params[NAME].sum())
    assert copy.deepcopy(params).keys() == plain.keys()


def greedy(model: LoadedModel) -> list[int]:
    (answer,) = model.generate("The", max_tokens=2)
    assert model.tokenizer is not None
    length = 4  # of "The" and a token
    logits = model(np.array([[*model.encode("The"), *answer.tokens]])[:, :length])
    assert answer.tokens == logits[0, 2:, : model.tokenizer.vocab_size].argmax(-1).tolist()
    return answer.tokens


def test_with_params_is_another_model_in_all_that_it_does(model: LoadedModel) -> None:
    before, said, likely = model(TOKENS), greedy(model), model.loglikelihood(PAIRS)
    weight = model.params["unembed.weight"]
    other = model.with_params({**model.params, "unembed.weight": -np.asarray(weight)})
    assert other.config is model.config and other.tokenizer is model.tokenizer
    np.testing.assert_array_equal(other(TOKENS), -before)
    assert greedy(other) != said
    assert other.loglikelihood(PAIRS) != likely
    np.testing.assert_array_equal(model(TOKENS), before)
    assert (greedy(model), model.loglikelihood(PAIRS)) == (said, likely)


def test_wrong_params_are_refused_with_all_that_is_wrong(model: LoadedModel) -> None:
    params = dict(model.params)
    weight = params.pop(NAME)
    wrong = {"x": weight, "unembed.weight": params["unembed.weight"].astype(jnp.bfloat16)}
    with pytest.raises(UserError, match="no parameters of this model") as refused:
        model.with_params(params | wrong)
    line = str(refused.value)
    assert f"{NAME} is missing; x is not in this model; unembed.weight is bfloat16[" in line
    with pytest.raises(UserError, match=r"embed\.tokens is float32\[.*, expected float32\["):
        model.with_params({**model.params, NAME: weight[:-1]})
    with pytest.raises(UserError, match=r"embed\.tokens is list, expected float32"):
        model.with_params({**model.params, NAME: [1.0]})
