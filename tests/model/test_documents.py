"""Documents packed into one row: each as if it stood alone, and the rule of Megatron."""

import dataclasses
from functools import cache
from typing import Any

import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxneox.model import Documents, Model
from tests.model.adapter import on_device, one_device
from tests.model.variants import configure
from tests.parallel.meshes import HASTE
from tests.reference.compare import relative_l2
from tests.reference.parameters import random_params

EOD, LENGTH = 3, 13
ENDS = [(4, 5, 10, 13), (1, 13)]  # of the documents of each row; one is an end alone
LOSS, GRADIENT = 1e-6, 5e-6  # float32 sums of other lengths
BOTH = Documents(EOD, attention=True, positions=True)

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Tokens, labels and weights, each [B, T]."""


@cache
def packed(vocab: int, ends: tuple[tuple[int, ...], ...] = tuple(ENDS)) -> Rows:
    """The last document of a row goes on in the next sample: it has no end."""
    random = np.random.default_rng(0)
    tokens, labels = random.integers(EOD + 1, vocab, (2, len(ends), LENGTH))
    for row, stops in zip(tokens, ends, strict=True):
        row[[stop - 1 for stop in stops[:-1]]] = EOD
    return tokens, labels, random.random(tokens.shape).astype(np.float32)


def alone(rows: Rows) -> Rows:
    """Each document at the beginning of a row of its own, and nothing after it counts."""
    starts = [(i, *span) for i, ends in enumerate(ENDS)
              for span in zip((0, *ends), ends, strict=False)]  # fmt: skip
    found = tuple(np.zeros((len(starts), LENGTH), x.dtype) for x in rows)
    for one, whole in zip(found, rows, strict=True):
        for row, (i, start, end) in zip(one, starts, strict=True):
            row[: end - start] = whole[i, start:end]
    return found[0], found[1], found[2]


def loss_and_grads(model: Model, params: Any, rows: Rows) -> tuple[float, dict[str, np.ndarray]]:
    """Of the sum of all tokens' losses, each with another weight."""
    leaves, tokens, labels = on_device(params, *rows[:2])
    weights = jnp.asarray(rows[2])
    run = jax.jit(jax.value_and_grad(model.loss_sum), compiler_options=HASTE)
    loss, grads = run(leaves, tokens[None], labels[None], weights[None])
    return float(loss), jax.device_get(grads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        *("", "learned", "alibi six_heads", "sinusoidal", "rpe gqa", "window gqa", "qk_norm mqa"),
        *("mamba rmsnorm", "mamba_groups no_attention no_positions"),
    ],
)
def test_a_packed_document_is_as_if_it_stood_alone(variant: str) -> None:
    cfg = configure(variant)
    params, rows = random_params(cfg, 0), packed(cfg.vocab_size)
    with one_device(cfg) as model:
        expected = loss_and_grads(model, params, alone(rows))
        together = dataclasses.replace(model, documents=BOTH)
        loss, grads = loss_and_grads(together, params, rows)
    assert loss == pytest.approx(expected[0], rel=LOSS)
    for name, gradient in expected[1].items():
        assert relative_l2(grads[name], gradient) < GRADIENT, name


def loss(variant: str, documents: Documents | None, rows: Rows, **changes: Any) -> float:
    """With leaves or positions' settings changed."""
    cfg = configure(variant)
    params = random_params(cfg, 0)
    if "table" in changes:
        params["embed.positions"][:LENGTH] = params["embed.positions"][changes["table"]]
    moved = dataclasses.replace(cfg.positions, offset=changes.get("offset", cfg.positions.offset))
    cfg = dataclasses.replace(cfg, positions=moved)
    with one_device(cfg) as model:
        model = dataclasses.replace(model, documents=documents)
        leaves, tokens, labels = on_device(params, *rows[:2])
        run = jax.jit(model.loss_sum, compiler_options=HASTE)
        return float(run(leaves, tokens[None], labels[None], jnp.asarray(rows[2])[None]))


def test_what_is_seen_begins_anew_without_the_positions() -> None:
    """A document that stands alone, its learned positions where they were."""
    tokens, labels, weights = packed(40, ((4, LENGTH),))
    rows = tokens, labels, np.where(np.arange(LENGTH) < 4, 0, weights)
    later = tuple(np.roll(x, -4, axis=1) for x in rows)
    expected = loss("learned", None, (later[0], later[1], later[2]), offset=4)
    found = loss("learned", Documents(EOD, attention=True, positions=False), rows)
    assert found == pytest.approx(expected, rel=LOSS)


def test_positions_begin_anew_without_what_is_seen() -> None:
    """As learned positions in another order; rotations count so too."""
    rows, table = packed(40, ((4, LENGTH),)), [*range(4), *range(9)]
    documents = Documents(EOD, attention=False, positions=True)
    assert loss("learned", documents, rows) == pytest.approx(
        loss("learned", None, rows, table=table), rel=LOSS
    )
    assert abs(loss("", documents, rows) / loss("", None, rows) - 1) > 1e-3


@pytest.mark.slow
def test_logits_are_of_one_text() -> None:
    """Where a model is asked about text it reads all of it."""
    cfg = configure("learned")
    tokens = packed(cfg.vocab_size)[0]
    with one_device(cfg) as model:
        together = dataclasses.replace(model, documents=BOTH)
        arrays = on_device(random_params(cfg, 0), tokens)
        logits = [jax.jit(m.logits, compiler_options=HASTE)(*arrays) for m in (model, together)]
    np.testing.assert_array_equal(*logits)


RULE = jax.jit(BOTH)


def megatron(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions [T] and what is seen, bool [T, T], of one row: Megatron-LM's loop over the ends."""
    length = len(tokens)
    seen, positions, before = np.tril(np.ones((length, length), bool)), np.arange(length), 0
    for end in np.arange(length)[tokens == EOD]:
        seen[end + 1 :, : end + 1] = False
        positions[end + 1 :] -= end + 1 - before
        before = end + 1
    return positions, seen


@given(hypothesis.extra.numpy.arrays(np.int32, (3, 9), elements=st.integers(EOD - 1, EOD + 1)))
@example(np.full((3, 9), EOD, np.int32))
@example(np.int32([[EOD, 9, 9, 9, 9, 9, 9, 9, EOD], [9, EOD, EOD, EOD, 9, 9, 9, EOD, 9], [9] * 9]))
def test_the_rule_is_megatrons(tokens: np.ndarray) -> None:
    positions, documents = map(np.asarray, RULE(jnp.asarray(tokens)))
    causal = np.tril(np.ones((9, 9), bool))
    for row, places, numbers in zip(tokens, positions, documents, strict=True):
        expected, seen = megatron(row)
        np.testing.assert_array_equal(places, expected)
        np.testing.assert_array_equal(causal & (numbers[:, None] == numbers), seen)


def test_the_losses_beside_divergences_keep_documents_apart() -> None:
    """As those of the labels alone; and a model has no divergence from itself."""
    cfg = configure("")
    params, rows = random_params(cfg, 0), packed(cfg.vocab_size)
    with one_device(cfg) as model:
        model = dataclasses.replace(model, documents=BOTH)
        leaves, tokens, labels = on_device(params, *rows[:2])
        given = tokens[None], labels[None]
        expected = model.label_losses(leaves, *given)
        found, apart = model.losses_and_divergences(leaves, model, leaves, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(apart, 0, atol=1e-5)
