"""How likely tokens are: against whole logits, on every mesh, in few shapes."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneox.data.tokenizer import CharLevelTokenizer
from jaxneox.errors import UserError
from jaxneox.infer.scoring import Request, Scorer, padded, pair
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker
from tests.infer.test_stream import HURRY

MESHES = ("dp=1", "tp=2", "dp=2,tp=2", "pp=2", "cp=2,tp=2")
LENGTHS = [(2, 1), (49, 1), (49, 40), (30, 12), (7, 6), (33, 32), (20, 1), (12, 3), (13, 3)]


def requests() -> list[Request]:
    rng = np.random.default_rng(3)
    return [Request(rng.integers(0, 500, n).tolist(), given) for n, given in LENGTHS]


def expected(request: Request, model: LoadedModel) -> tuple[np.ndarray, np.ndarray]:
    """From whole logits, in float64."""
    logits = np.asarray(model(np.array([request.tokens[:-1]])), np.float64)[0]
    logits = logits[request.given - 1 :]
    labels = np.asarray(request.tokens[request.given :])
    own = logits[np.arange(len(labels)), labels]
    top = logits.max(-1)
    return own - top - np.log(np.exp(logits - top[:, None]).sum(-1)), own >= top


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_scores_are_those_of_whole_logits(mesh: str) -> None:
    model = speaker(mesh)
    told: list[int] = []
    params = jax.device_put(model._params, jax.NamedSharding(model._mesh, jax.P()))
    scorer = Scorer(model._functions.scorer.model, model._mesh, budget=128)
    scored = scorer(params, requests(), told.append)
    assert sum(told) == len(LENGTHS)
    for one, request in zip(scored, requests(), strict=True):
        logprobs, likeliest = expected(request, speaker())
        # Logits of up to 30 in float32, which rounds them by 2e-6; measured up to 5e-6.
        np.testing.assert_allclose(one.logprobs, logprobs, rtol=0, atol=2e-5)
        assert one.likeliest.tolist() == likeliest.tolist()


DYNAMIC = {"type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 12}


@pytest.mark.slow
def test_dynamic_rope_scaling_sees_no_padding() -> None:
    """Beyond the original length all angles depend on the length of the row."""
    model = speaker(rope_scaling=DYNAMIC)
    scorer = Scorer(model._functions.scorer.model, model._mesh, budget=128)
    for one, request in zip(scorer(model._params, requests()), requests(), strict=True):
        np.testing.assert_allclose(one.logprobs, expected(request, model)[0], rtol=0, atol=2e-5)
    split = speaker("cp=2", rope_scaling=DYNAMIC)
    with pytest.raises(UserError, match=r"19 tokens needs a row of 19.* multiples of 4"):
        split.score([Request([1] * 20, 1)])


def test_the_likeliest_token_is_known() -> None:
    model = speaker()
    tokens = [5, 6, 7]
    best = int(np.asarray(model(np.array([tokens])))[0, -1].argmax())
    for last in (best, (best + 1) % 500):
        (one,) = model.score([Request([*tokens, last], 3)])
        assert bool(one.likeliest[0]) is (last == best)


def test_a_token_without_an_embedding_is_refused() -> None:
    model = speaker()
    with pytest.raises(UserError, match=r"token 9999 .*another model's"):
        model.score([Request([1, 9999, 2], 1)])


def test_many_requests_are_few_programs() -> None:
    rng = np.random.default_rng(0)
    model = speaker(seq_length=2048)
    lengths = rng.integers(2, 2049, 1000)
    many = [Request(range(n), int(rng.integers(1, n))) for n in lengths]
    shapes = {model._functions.scorer.shape(one) for one in many}
    assert len({shape.length for shape in shapes}) <= 13
    assert len(shapes) <= 60
    assert all(
        shape.length >= len(r.tokens) - 1
        for r in many
        if (shape := model._functions.scorer.shape(r))
    )


@given(st.lists(st.tuples(st.integers(2, 300), st.integers(1, 299)), max_size=60))
@HURRY
def test_each_request_is_in_one_batch_that_has_room(lengths: list[tuple[int, int]]) -> None:
    scorer = speaker("dp=2")._functions.scorer
    many = [Request(range(n), min(given, n - 1)) for n, given in lengths]
    batches = list(scorer.batches(many))
    assert sorted(n for batch in batches for n in batch.numbers) == list(range(len(many)))
    for batch in batches:
        assert 1 <= len(batch.numbers) <= batch.rows and batch.rows % 2 == 0
        for request in (many[number] for number in batch.numbers):
            assert len(request.tokens) - 1 <= batch.shape.length
            assert len(request.tokens) - request.given <= batch.shape.scored


@given(st.integers(1, 10**5))
def test_padding_is_a_third_at_most(number: int) -> None:
    size = padded(number, least=32, halves=True)
    assert number <= size and (size == 32 or size <= number * 1.5)


class Pairs(CharLevelTokenizer):
    """Like a BPE: two equal letters side by side are one token."""

    def _encode(self, text: str) -> list[int]:
        ids, i = [], 0
        while i < len(text):
            twice = text[i : i + 2] == 2 * text[i]
            ids.append(ord(text[i]) + 256 * twice)
            i += 1 + twice
        return ids


texts = st.text("ab ", max_size=12)


@given(texts, texts.filter(bool), st.integers(4, 20))
@HURRY
def test_pairs_are_split_as_lm_eval_does(context: str, continuation: str, room: int) -> None:
    """Its `_encode_pair`, empty contexts and truncation (lm_eval/api/model.py)."""
    api = pytest.importorskip("lm_eval.api.model", reason="needs the evaluate extra")

    class Theirs:
        backend = "causal"
        tok_encode = staticmethod(Pairs().encode)

    if context.strip():
        before, after = api.TemplateLM._encode_pair(Theirs(), context, continuation)
    else:
        before, after = [Pairs.eod], Pairs().encode(context + continuation)
    whole = (before + after)[-(room + 1) :]
    found = pair(Pairs(), context, continuation, room)
    if after:  # else the continuation vanished into the context's last token
        assert found.tokens == whole
        assert len(whole) - found.given == min(len(after), len(whole) - 1)


def test_loglikelihood_is_a_sum_over_the_continuation() -> None:
    model = speaker()
    found = model.loglikelihood([("the old", " man"), ("x", "y")])
    (one,) = model.score([pair(model.tokenizer, "the old", " man", 48)])
    assert found[0][0] == pytest.approx(one.total, abs=1e-5)  # in another batch
    assert found[0][1] is bool(one.likeliest.all())
    assert len(one.logprobs) == 4 and found[0][0] == pytest.approx(
        float(one.logprobs.sum()), abs=1e-5
    )
    with pytest.raises(UserError, match="no tokenizer"):
        speaker(tokenizer=False).loglikelihood([("a", "b")])
    with pytest.raises(UserError, match="empty"):
        model.loglikelihood([("a", "")])
