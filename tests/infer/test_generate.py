"""Many prompts through few rows: each answer is that of its prompt alone."""

from functools import lru_cache

import numpy as np
import pytest

from jaxneox.data.companions import Companions
from jaxneox.errors import UserError
from jaxneox.infer.generate import Answer
from tests.infer.models import speaker

PROMPTS = ["The", "old man said to the boy that", "x", "a b c d e", "Once upon a time", "!"]


@lru_cache
def one():
    return speaker()


def drawn(**options) -> list[Answer]:
    return one().generate(PROMPTS, max_tokens=12, temperature=0.9, top_k=30, seed=5, **options)


@pytest.mark.slow
def test_few_rows_many_rows_and_no_cache_give_the_same_draws() -> None:
    few, many, slow = drawn(rows=2), drawn(rows=8), drawn(recompute=True)
    assert [a.tokens for a in few] == [a.tokens for a in many] == [a.tokens for a in slow]
    assert len({tuple(a.tokens) for a in few}) == len(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        (alone,) = one().generate(prompt, max_tokens=12, temperature=0.9, top_k=30, seed=5 + number)
        assert alone.tokens == few[number].tokens
        assert one().encode(prompt) == few[number].prompt


def test_text_is_told_while_it_grows() -> None:
    told: dict[int, str] = {}
    finished: list[int] = []
    answers = one().generate(
        PROMPTS,
        max_tokens=9,
        rows=2,
        on_text=lambda number, new: told.update({number: told.get(number, "") + new}),
        on_answer=lambda number, _: finished.append(number),
    )
    assert [told[number] for number in range(len(PROMPTS))] == [a.text for a in answers]
    assert sorted(finished) == list(range(len(PROMPTS)))


def test_logprobs_are_the_models_own() -> None:
    (answer,) = one().generate("The", max_tokens=5, temperature=0.5, top_k=3)
    ids = [*answer.prompt, *answer.tokens]
    logits = np.asarray(one()(np.array([ids])), np.float64)[0, len(answer.prompt) - 1 : -1]
    known = logits[:, : one().tokenizer.vocab_size]
    expected = known - np.log(np.exp(known).sum(-1, keepdims=True))
    picked = expected[np.arange(5), answer.tokens]
    np.testing.assert_allclose(answer.logprobs, picked, rtol=0, atol=5e-6)  # float32, 500 terms


def test_an_answer_ends_before_its_stop_string() -> None:
    (whole,) = one().generate("The", max_tokens=20)
    middle = whole.text[8:10]
    (cut,) = one().generate("The", max_tokens=20, stop=[middle])
    assert cut.text == whole.text[: whole.text.index(middle)] and cut.finished == "stop"
    assert whole.finished == "length"


def test_an_answer_ends_with_its_document() -> None:
    model = speaker()
    (free,) = model.generate("The", max_tokens=10)
    model.tokenizer.eod = free.tokens[4]
    (answer,) = model.generate("The", max_tokens=10)
    end = free.tokens.index(free.tokens[4])
    assert (answer.tokens, answer.finished) == (free.tokens[:end], "eod")


def test_an_answer_ends_at_any_token_that_ends_one() -> None:
    """What config.json and generation_config.json name, besides the end of a document."""
    model = speaker()
    assert model.tokenizer is not None
    (free,) = model.generate("The", max_tokens=10)
    first = min(free.tokens.index(free.tokens[i]) for i in (3, 6))
    model.tokenizer.companions = Companions(stop=(free.tokens[3], free.tokens[6]))
    (answer,) = model.generate("The", max_tokens=10)
    assert (answer.tokens, answer.finished) == (free.tokens[:first], "eod")
    assert answer.end is not None and answer.end[0] == free.tokens[first]


def test_the_context_is_filled_and_not_passed() -> None:
    for prompt, wanted in (("x", None), ("x" * 40, 100), ("x" * 47, 5)):
        (answer,) = one().generate(prompt, max_tokens=wanted)
        assert len(answer.tokens) == 48 - len(prompt)


def test_an_empty_prompt_is_the_end_of_a_document() -> None:
    assert one().generate("", max_tokens=2)[0].prompt == [one().tokenizer.eod]
    assert one().generate([]) == []


def test_tokens_that_the_tokenizer_lacks_are_never_chosen() -> None:
    model = speaker()
    known = model.tokenizer.vocab_size
    assert known < model.config.model.vocab_size
    weight = model.params["unembed.weight"]
    louder = weight.at[:, known:].set(100 * weight[:, known:])
    model = model.with_params({**model.params, "unembed.weight": louder})
    assert max(max(a.tokens) for a in model.generate(PROMPTS, max_tokens=20)) < known


def test_released_weights_generate_the_same() -> None:
    model = speaker().release()
    assert not [name for name in model.params if name.startswith("layers.")]
    (answer,), (expected,) = (m.generate("The", max_tokens=6) for m in (model, one()))
    assert answer.tokens == expected.tokens


@pytest.mark.slow
def test_the_kernel_that_training_asked_for_is_not_asked_for_here() -> None:
    """Splash takes multiples of 128 tokens alone."""
    models = speaker(attention_kernel="splash"), speaker()
    mine, other = (model.generate(["The"], max_tokens=3)[0].tokens for model in models)
    assert mine == other
    mine, other = (model.loglikelihood([("a", "b")]) for model in models)
    assert mine == other


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompts": "x" * 48}, "48 tokens: the model's context is 48"),
        ({"prompts": [[]]}, "no tokens"),
        ({"prompts": [[1, 100_000]]}, "token 100000"),
        ({"prompts": "x", "max_tokens": 0}, "0 tokens wanted"),
        ({"prompts": "x", "temperature": -1}, "temperature"),
        ({"prompts": "x", "stop": [""]}, "stop string"),
    ],
)
def test_wrong_wishes_are_one_line(options, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        one().generate(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_without_a_tokenizer_tokens_go_in_and_out() -> None:
    model = speaker(tokenizer=False)
    (answer,) = model.generate([[5, 6, 7]], max_tokens=3)
    assert answer.text is None and len(answer.tokens) == 3
    with pytest.raises(UserError, match="no tokenizer"):
        model.generate("text")
    with pytest.raises(UserError, match="stop strings need a tokenizer"):
        model.generate([[5]], stop=["x"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 5}, {"recompute": True}])
@pytest.mark.parametrize("mesh", ["dp=1", "dp=2,tp=2"])
def test_a_model_without_numbers_gives_no_answer(mesh: str, options: dict) -> None:
    model, sound = speaker(mesh, broken="~"), one().generate("old man", max_tokens=30)
    for prompt in ("~", "The man~", "The~" * 9):
        with pytest.raises(UserError, match="log-probability is nan: the model's numbers"):
            model.generate([prompt, "old man"], max_tokens=30, **options)
    (after,) = model.generate("old man", max_tokens=30)  # in a row that held no numbers
    assert after.tokens == sound[0].tokens
    with pytest.raises(UserError, match="log-probability is nan"):
        model.loglikelihood([("The man", " is"), ("The~", " is")])


@pytest.mark.parametrize("wrong", ["half \ud800", "byte \udcff"])
def test_what_is_no_text(wrong: str) -> None:
    for call in (
        lambda: one().generate(wrong),
        lambda: one().generate("x", stop=["y", wrong]),
        lambda: one().loglikelihood([(wrong, " x")]),
        lambda: one().loglikelihood([("x", wrong)]),
    ):
        with pytest.raises(UserError, match=r"character [56] is no whole one"):
            call()


def test_the_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(UserError, match="prompt 2 of 3 has 60 tokens"):
        one().generate(["x", "x" * 60, "x"])
