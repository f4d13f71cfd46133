"""What is answered: the same as in Python, in OpenAI's words."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.serve.place import Place, place

GREEDY = {"temperature": 0, "max_tokens": 9}
PROMPTS = ["The", "old man said to the boy that", "x", "a b c d e"]


def test_each_form_of_a_prompt(here: Place) -> None:
    texts = [here.alone(prompt, max_tokens=9).text for prompt in PROMPTS]
    tokens = [here.model.encode(prompt) for prompt in PROMPTS]
    for prompt in (PROMPTS, tokens):
        body = here.complete(prompt=prompt, **GREEDY).json
        assert [(c["index"], c["text"]) for c in body["choices"]] == list(enumerate(texts))
        assert {c["finish_reason"] for c in body["choices"]} == {"length"}
    assert (body["object"], body["model"]) == ("text_completion", "speaker")
    size = sum(map(len, tokens))
    assert body["usage"] == {
        "prompt_tokens": size,
        "completion_tokens": 36,
        "total_tokens": size + 36,
    }
    for prompt in (PROMPTS[1], tokens[1]):
        (choice,) = here.complete(prompt=prompt, **GREEDY).json["choices"]
        assert choice["text"] == texts[1]


def test_many_at_once_are_not_mixed_up(here: Place) -> None:
    def completion(number: int) -> dict:
        warm = {"temperature": 0.9, "top_k": 30, "seed": number} if number % 3 else GREEDY
        return {**warm, "max_tokens": 3 + number % 17}

    def ask(number: int) -> list[int]:
        fields = {"prompt": PROMPTS[number % 4], "return_token_ids": True, **completion(number)}
        if number % 2:
            events = list(here.stream(**fields))
            return [t for event in events for t in event["choices"][0]["token_ids"]]
        return here.complete(**fields).json["choices"][0]["token_ids"]

    with ThreadPoolExecutor(12) as clients:
        found = list(clients.map(ask, range(36)))
    for number, tokens in enumerate(found):
        assert tokens == here.alone(PROMPTS[number % 4], **completion(number)).tokens


def test_openais_defaults_draw_sixteen_tokens(here: Place) -> None:
    fields = {"prompt": "The", "seed": 7, "return_token_ids": True}
    choices = here.complete(**fields, n=2).json["choices"]
    expected = [here.alone("The", max_tokens=16, temperature=1, seed=7 + i).tokens for i in (0, 1)]
    assert [choice["token_ids"] for choice in choices] == expected
    unseeded = [here.complete(prompt="The").json["choices"][0]["text"] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize(
    "cold", [{"temperature": 0, "top_p": 0.5}, {"top_p": 0}, {"temperature": 1e-9}]
)
def test_no_temperature_is_greedy_whatever_else(here: Place, cold: dict) -> None:
    (choice,) = here.complete(prompt="The", max_tokens=9, **cold).json["choices"]
    assert choice["text"] == here.alone("The", max_tokens=9).text


def test_a_stream_is_the_answer_in_pieces(here: Place) -> None:
    options = {"stream_options": {"include_usage": True}, "return_token_ids": True}
    events = list(here.stream(prompt=["The", "x"], **GREEDY, **options))
    *chunks, last = events
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 18
    assert len({event["id"] for event in events}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    for index, prompt in enumerate(("The", "x")):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert len(own) == 9
        assert "".join(c["text"] for c in own) == here.alone(prompt, max_tokens=9).text
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + ["length"]


def test_stop_strings_and_the_end_of_a_document(here: Place) -> None:
    whole = here.alone("The", max_tokens=20)
    middle = whole.text[8:10]
    (choice,) = here.complete(prompt="The", temperature=0, max_tokens=20, stop=middle).json[
        "choices"
    ]
    assert choice["text"] == whole.text[: whole.text.index(middle)]
    assert choice["finish_reason"] == "stop"
    parts = here.stream(prompt="The", temperature=0, max_tokens=20, stop=["never", middle])
    assert "".join(part["choices"][0]["text"] for part in parts) == choice["text"]


def test_an_answer_ends_with_the_context(here: Place) -> None:
    body = here.complete(prompt="x" * 40, max_tokens=48, temperature=0).json
    assert body["usage"]["completion_tokens"] == 8
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("wanted", [0, 1, 6])
def test_logprobs_are_the_models_own(here: Place, wanted: int) -> None:
    prompt = "The old man"
    fields = {"prompt": prompt, "temperature": 0, "max_tokens": wanted, "return_token_ids": True}
    (choice,) = here.complete(**fields, echo=True, logprobs=3).json["choices"]
    (same,) = list(here.stream(**fields, echo=True, logprobs=3))[:1] if not wanted else [None]
    said, ids = choice["logprobs"], choice["prompt_token_ids"] + choice["token_ids"]
    assert same is None or same["choices"][0]["logprobs"] == said
    assert len(choice["token_ids"]) == wanted and choice["text"].startswith(prompt)

    logits = np.asarray(here.model(np.array([ids])), np.float64)[0, :-1]
    known = here.model.tokenizer.vocab_size
    first = len(prompt) - 1
    logits[first:, known:] = -np.inf  # never chosen; a prompt's are the whole vocabulary's
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = np.array(said["token_logprobs"][1:])
    # float32 sums of 640 terms
    np.testing.assert_allclose(found, expected[np.arange(len(ids) - 1), ids[1:]], rtol=0, atol=5e-6)

    assert said["token_logprobs"][0] is said["top_logprobs"][0] is None
    for number, (top, logprob) in enumerate(zip(said["top_logprobs"][1:], found, strict=True)):
        likely = np.sort(expected[number, :known])[::-1][:3]
        np.testing.assert_allclose(list(top.values())[:3], likely, rtol=0, atol=5e-6)
        assert logprob in top.values() and len(top) <= 4
        greedy = ids[number + 1] == expected[number, :known].argmax()
        assert greedy == (logprob == max(top.values()))  # as lm-eval decides it
    pieces = said["tokens"]
    for before, piece, offset in zip(["", *pieces], pieces, said["text_offset"], strict=False):
        if not any(part.startswith("token_id:") for part in (before, piece)):
            assert choice["text"][offset:].startswith(piece)


def test_without_a_tokenizer_tokens_go_in_and_out() -> None:
    with place(tokenizer=False) as here:
        (choice,) = here.complete(prompt=[5, 6, 7], **GREEDY, logprobs=0).json["choices"]
        assert choice["token_ids"] == here.alone([5, 6, 7], max_tokens=9).tokens
        assert choice["text"] == "" and choice["logprobs"]["tokens"][0].startswith("token_id:")
        assert "no tokenizer" in here.complete(prompt="text").reason
        assert "no tokenizer" in here.complete(prompt=[5], stop="x").reason


def test_the_model_is_listed(here: Place) -> None:
    (listed,) = here.ask("GET", "/v1/models").json["data"]
    assert (listed["id"], listed["max_model_len"]) == ("speaker", 48)
    assert here.ask("GET", "/v1/models/speaker").json == listed
    assert here.complete(prompt="x", model="speaker", user="me", **GREEDY).status == 200


def test_the_end_of_document_has_its_log_probability(here: Place) -> None:
    """lm-eval's client asks for one token after the echo and leaves its log-probability out."""
    fields = {"prompt": "The old man", "max_tokens": 1, "temperature": 0, "echo": True}
    before = here.complete(**fields, logprobs=1).json["choices"][0]
    (next_token,) = here.alone("The old man", max_tokens=1).tokens
    after = here.complete(**fields, logprobs=1, stop_token_ids=[next_token]).json["choices"][0]
    assert (before["finish_reason"], after["finish_reason"]) == ("length", "stop")
    assert after["text"] == "The old man" and after["logprobs"] == before["logprobs"]


def test_penalties_and_biases_alone_and_in_company(here: Place) -> None:
    fields = [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 2.0, "temperature": 0.8, "seed": 3},
        {"logit_bias": {"322": -100, "66": 3.5}},
        {"frequency_penalty": -2, "logit_bias": {"66": 100}},
        {},
    ]

    def ask(number: int) -> list[int]:
        how = {"temperature": 0, **fields[number % 5], "max_tokens": 12, "return_token_ids": True}
        if number % 2:
            body = here.chat({"role": "user", "content": "Hi"}, **how).json
        else:
            body = here.complete(prompt="u:Hi\na:", **how).json
        return body["choices"][0]["token_ids"]

    with ThreadPoolExecutor(10) as clients:
        found = list(clients.map(ask, range(20)))
    for number, tokens in enumerate(found):
        how = dict(fields[number % 5])
        how["logit_bias"] = {int(t): bias for t, bias in how.get("logit_bias", {}).items()}
        assert tokens == here.alone("u:Hi\na:", max_tokens=12, **how).tokens
    assert len({tuple(tokens) for tokens in found}) == 5


def test_the_best_of_several(here: Place) -> None:
    """The likeliest by the mean of their tokens' log-probabilities, each prompt's own."""
    fields = {"prompt": ["The", "x"], "temperature": 1, "seed": 4, "max_tokens": 7, "logprobs": 0}
    every = here.complete(**fields, n=4, return_token_ids=True).json["choices"]
    body = here.complete(**fields, n=2, best_of=4, return_token_ids=True).json
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["completion_tokens"] == 8 * 7  # also of those that are not returned
    for prompt in (0, 1):
        own = every[4 * prompt : 4 * prompt + 4]
        own.sort(key=lambda choice: -np.mean(choice["logprobs"]["token_logprobs"]))
        best = [choice["token_ids"] for choice in body["choices"][2 * prompt : 2 * prompt + 2]]
        assert best == [choice["token_ids"] for choice in own[:2]]
