"""What ends an answer, and what does not before its least length; alone as in company."""

import pytest

from jaxneox.data.companions import Companions
from jaxneox.errors import UserError
from jaxneox.infer.sampling import MOST_ENDS
from jaxneox.infer.stopping import StopConditions
from jaxneox.infer.stream import TextStream
from jaxneox.loading import LoadedModel
from tests.infer.models import speaker
from tests.infer.test_stream import streamed, words

PROMPTS = ["The", "old man said", "x", "a b c d e"]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return speaker()


@pytest.fixture
def ending(model: LoadedModel):
    """The model with end tokens that its answer to "The" has, and that answer without them."""
    (free,) = model.generate("The", max_tokens=20)
    model.tokenizer.companions = Companions(stop=(free.tokens[2], free.tokens[5]))
    yield model, free
    model.tokenizer.companions = Companions()


def test_a_stop_token_ends_an_answer(model: LoadedModel) -> None:
    (free,) = model.generate("The", max_tokens=20)
    token = free.tokens[6]
    at = free.tokens.index(token)
    (cut,) = model.generate("The", max_tokens=20, stop_token_ids=[token])
    assert (cut.tokens, cut.finished, cut.end[0]) == (free.tokens[:at], "stop", token)
    assert cut.text == model.tokenizer.decode(free.tokens[:at])


def test_an_end_token_may_be_one_as_any_other(ending) -> None:
    model, free = ending
    assert model.generate("The", max_tokens=20)[0].finished == "eod"
    (answer,) = model.generate("The", max_tokens=20, ignore_eos=True)
    assert (answer.tokens, answer.finished) == (free.tokens, "length")


@pytest.mark.parametrize("how", [{}, {"temperature": 0.9, "top_k": 30, "seed": 5}])
@pytest.mark.parametrize("recompute", [False, True])
def test_no_end_is_chosen_before_the_least_length(ending, how: dict, recompute: bool) -> None:
    model, free = ending
    ends, least = {*model.tokenizer.stops, 101}, 12
    options = {"stop_token_ids": [101], "max_tokens": 30, "recompute": recompute, **how}
    together = model.generate(PROMPTS, min_tokens=least, rows=2, **options)
    for number, (prompt, answer) in enumerate(zip(PROMPTS, together, strict=True)):
        assert len(answer.tokens) >= least and not ends & {*answer.tokens}
        seed = {"seed": how["seed"] + number} if how else {}
        (alone,) = model.generate(prompt, min_tokens=least, **options | seed)
        assert alone.tokens == answer.tokens and alone.finished == answer.finished
    if not how:  # what was as likely as can be before the first end is the same
        assert together[0].tokens[:2] == free.tokens[:2]
    (masked,) = model.generate("The", max_tokens=9, min_tokens=9, ignore_eos=True)
    assert not model.tokenizer.stops & {*masked.tokens}  # as vLLM: also with ignore_eos


@pytest.mark.slow
def test_the_least_length_holds_on_a_mesh(ending) -> None:
    model, _ = ending
    meshed = speaker("dp=2,tp=2")
    meshed.tokenizer.companions = model.tokenizer.companions
    options = {"max_tokens": 30, "min_tokens": 12, "stop_token_ids": [101]}
    expected, found = (one.generate(PROMPTS, **options) for one in (model, meshed))
    assert [answer.tokens for answer in found] == [answer.tokens for answer in expected]


def test_log_probabilities_are_over_all_tokens_nevertheless(ending) -> None:
    model, free = ending
    (answer,) = model.generate("The", max_tokens=2, min_tokens=2)
    assert answer.tokens == free.tokens[:2] and answer.logprobs == free.logprobs[:2]


@pytest.mark.parametrize(
    ("least", "stop", "text"),
    [
        (0, ["ab"], "Hello"),
        (1, ["ab"], "Hello"),
        (2, ["ab"], "Helloaba"),
        (3, ["ab"], "Helloabaab."),
        (4, ["ab"], "Helloabaab."),
        (5, ["ab"], "Helloabaab.ab"),
        (2, ["b", "aba"], "Hello"),  # begins within the first two, and ends after them
        (2, ["b", "abz"], "Helloabaa"),  # what was held back for another one is not searched
    ],
)
def test_a_stop_string_counts_after_the_least_length(
    least: int, stop: list[str], text: str
) -> None:
    ids = [7, 12, 13, 11, 12]  # Hello ab aab . ab
    stream = TextStream(words, stop, least)
    told = streamed(stream, ids)
    assert "".join(told) == stream.text == text


def test_some_token_is_left(model: LoadedModel) -> None:
    with pytest.raises(UserError, match="every token"):
        StopConditions(stop_token_ids=range(9), min_tokens=1).check(None, 9)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stop_token_ids": [640]}, "stop token 640"),
        ({"stop_token_ids": [-1]}, "stop token -1"),
        ({"min_tokens": -1}, "min_tokens -1"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens 9"),
        ({"min_tokens": 1, "stop_token_ids": range(MOST_ENDS + 1)}, "64 at most"),
    ],
)
def test_what_cannot_be_is_refused(model: LoadedModel, options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model.generate("The", **options)
