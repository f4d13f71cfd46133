"""Fields that vLLM's clients send: what works, and what is taken where it changes nothing."""

import json

import pytest

from jaxneox.data.companions import Companions
from tests.serve.place import Place

GUIDELLM = {
    "model": "speaker",
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "max_tokens": 8,
    "stop": None,
    "ignore_eos": True,
    "prompt": "The old man",
    "temperature": 0,
}
"""What guidellm sends with each request, and a temperature to compare the answer."""
HARMLESS = {
    "metadata": {"run": "1"},
    "store": False,
    "user": "me",
    "service_tier": "auto",
    "skip_special_tokens": True,
    "add_special_tokens": True,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": False,
    "use_beam_search": False,
    "length_penalty": 1.0,
    "repetition_penalty": 1.0,
    "min_p": 0.0,
    "bad_words": [],
    "response_format": {"type": "text"},
    "priority": 0,
    "cache_salt": "salt",
    "seed": 5,
    "truncate_prompt_tokens": None,
    "prompt_logprobs": None,
    "stream_options": {},
}
REFUSED = {
    "store": True,
    "metadata": "text",
    "user": 5,
    "skip_special_tokens": False,
    "add_special_tokens": "no",
    "include_stop_str_in_output": True,
    "use_beam_search": True,
    "frequency_penalty": False,
    "allowed_token_ids": [5],
    "prompt_logprobs": 1,
    "response_format": {"type": "json_object"},
    "truncate_prompt_tokens": 5,
    "priority": 1,
    "min_tokens": 9,
    "stop_token_ids": [640],
    "ignore_eos": 1,
    "service_tier": "flex",
    "max_completion_tokens": 5,
    "stream_options": {"include_usage": False, "continuous_usage_stats": True},
}


def test_guidellms_request(here: Place) -> None:
    *parts, last = here.stream(**GUIDELLM)
    alone = here.alone("The old man", max_tokens=8)
    assert "".join(part["choices"][0]["text"] for part in parts) == alone.text
    usages = [part["usage"] for part in parts]
    assert [usage["completion_tokens"] for usage in usages] == [*range(1, 9)]
    assert last["choices"] == [] and last["usage"] == usages[-1]
    assert all(usage["total_tokens"] == 11 + usage["completion_tokens"] for usage in usages)


@pytest.mark.parametrize("usage", [{}, {"include_usage": True}, {"include_usage": False}])
def test_usage_in_every_part_and_at_the_end(here: Place, usage: dict) -> None:
    options = {"continuous_usage_stats": True, "include_obfuscation": False, **usage}
    asked = {"prompt": ["The", "x"], "max_tokens": 4, "n": 2, "ignore_eos": True}
    events = list(here.stream(**asked, stream_options=options))
    assert events[-1]["usage"]["completion_tokens"] == 16
    assert (events[-1]["choices"] == []) is (usage != {"include_usage": False})


def test_what_changes_nothing_is_taken(here: Place) -> None:
    answer = here.complete(prompt="The", temperature=0, max_tokens=8, **HARMLESS)
    assert answer.status == 200, answer.reason
    assert answer.json["choices"][0]["text"] == here.alone("The", max_tokens=8).text


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_something_is_refused_by_its_name(here: Place, name: str) -> None:
    answer = here.complete(prompt="The", max_tokens=8, **{name: REFUSED[name]})
    assert answer.status == 400 and answer.reason.startswith(f"{name}: ")
    assert answer.json["error"]["param"] == name
    assert json.dumps(REFUSED[name]) in answer.reason


def test_special_tokens_are_left_out_where_there_are_none(here: Place, monkeypatch) -> None:
    fields = {"max_tokens": 1, "add_special_tokens": False}
    assert here.complete(prompt="The", **fields).status == 200
    tokenizer = here.scheduler.models.first.tokenizer
    encode = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda text: [1, *encode(text)])
    assert "special tokens around each text" in here.complete(prompt="The", **fields).reason
    assert here.complete(prompt=[5], **fields).status == 200


def test_what_ends_an_answer_and_when(here: Place, monkeypatch) -> None:
    free = here.alone("The", max_tokens=20)
    stops = (free.tokens[3], free.tokens[6])
    fields = {"prompt": ["The", "x"], "temperature": 0, "max_tokens": 20, "return_token_ids": True}
    for tokenizer in (here.scheduler.models.first.tokenizer, here.model.tokenizer):
        monkeypatch.setattr(tokenizer, "companions", Companions(stop=stops))
    for options in (
        {},
        {"ignore_eos": True},
        {"min_tokens": 9},
        {"min_tokens": 20},
        {"stop_token_ids": [free.tokens[1]]},
        {"stop_token_ids": [free.tokens[1]], "min_tokens": 5, "ignore_eos": True},
        {"stop": free.text[8:10]},
        {"stop": free.text[8:10], "min_tokens": 12, "ignore_eos": True},
    ):
        choices = here.complete(**fields, **options).json["choices"]
        parts = [part["choices"][0] for part in here.stream(**fields, **options)]
        stop = {"stop": [options["stop"]]} if "stop" in options else {}
        for index, prompt in enumerate(fields["prompt"]):
            alone = here.alone(prompt, max_tokens=20, **options | stop)
            assert choices[index]["token_ids"] == alone.tokens
            assert choices[index]["text"] == alone.text
            own = [part for part in parts if part["index"] == index]
            assert [token for part in own for token in part["token_ids"]] == alone.tokens
            ended = "length" if alone.finished == "length" else "stop"
            assert choices[index]["finish_reason"] == own[-1]["finish_reason"] == ended
