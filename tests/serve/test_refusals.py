"""Every bad request is a 4xx with OpenAI's body and a reason."""

import json

import pytest

from tests.serve.place import Place

FIELDS = [
    ({}, "prompt: missing"),
    ({"prompt": []}, "prompt: [], expected"),
    ({"prompt": [[]]}, "prompt: [], expected"),
    ({"prompt": 5}, "prompt: 5, expected"),
    ({"prompt": ["a", 5]}, "prompt: 5, expected"),
    ({"prompt": [True]}, "prompt: true, expected"),
    ({"prompt": {"a": 1}}, "prompt: {"),
    ({"prompt": [640]}, "token 640 is outside the vocabulary of 640"),
    ({"prompt": [-1]}, "token -1"),
    ({"prompt": "x" * 48}, "context is 48 tokens; the prompt has 48, and its answer needs one"),
    ({"prompt": "x" * 49, "max_tokens": 0, "echo": True}, "the prompt has 49"),
    ({"prompt": "\ud800"}, "surrogate"),
    ({"prompt": ["x"] * 17}, "17 of them, expected 16"),
    ({"prompt": ["x"] * 4, "n": 5}, "4 prompts x n 5"),
    ({"prompt": "x", "n": 0}, "n: 0, expected a whole number from 1 to 16"),
    ({"prompt": "x", "n": 3, "best_of": 2}, "best_of: 2, expected a whole number from 3 to 16"),
    ({"prompt": "x", "best_of": 2, "stream": True}, "best_of: 2 is not supported: which answers"),
    ({"prompt": ["x"] * 4, "best_of": 5}, "4 prompts x best_of 5"),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens: 0, expected 1 or more, or echo"),
    ({"prompt": "x", "max_tokens": -1}, "max_tokens: -1"),
    ({"prompt": "x", "max_tokens": 49}, "max_tokens: 49, expected a whole number from 0 to 48"),
    ({"prompt": "x", "max_tokens": 2.5}, "max_tokens: 2.5"),
    ({"prompt": "x", "max_tokens": True}, "max_tokens: true"),
    ({"prompt": "x", "temperature": -0.1}, "temperature: -0.1, expected a number from 0 to 2"),
    ({"prompt": "x", "temperature": 1e300}, "temperature: 1e+300"),
    ({"prompt": "x", "temperature": 10**400}, "temperature: 1000"),
    ({"prompt": "x", "temperature": "1"}, 'temperature: "1"'),
    ({"prompt": "x", "temperature": False}, "temperature: false"),
    ({"prompt": "x", "top_p": 1.01}, "top_p: 1.01"),
    ({"prompt": "x", "top_k": -2}, "top_k: -2"),
    ({"prompt": "x", "top_k": 2**31}, "top_k: 2147483648"),
    ({"prompt": "x", "seed": 1.5}, "seed: 1.5"),
    ({"prompt": "x", "seed": 2**63}, "seed: 9223372036854775808"),
    ({"prompt": "x", "logprobs": 6}, "logprobs: 6, expected a whole number from 0 to 5"),
    ({"prompt": "x", "logprobs": True}, "logprobs: true"),
    ({"prompt": "x", "stop": ""}, "stop: "),
    ({"prompt": "x", "stop": [1]}, "stop: [1]"),
    ({"prompt": "x", "stop": ["s"] * 17}, "stop: 17 of them"),
    ({"prompt": "x", "stream": 1}, "stream: 1, expected true or false"),
    ({"prompt": "x", "stream_options": {"include_usage": True}}, "expected stream: true beside"),
    (
        {"prompt": "x", "stream": True, "stream_options": {"a": 1}},
        '"a" is not a field of stream',
    ),
    ({"prompt": "x", "\ud800": 1}, '"\\ud800" is not a field of a completion'),
    ({"prompt": "x", "echo": "yes"}, 'echo: "yes"'),
    ({"prompt": "x", "presence_penalty": 2.5}, "presence_penalty: 2.5, expected a number from -2"),
    ({"prompt": "x", "frequency_penalty": "1"}, 'frequency_penalty: "1"'),
    ({"prompt": "x", "logit_bias": [5]}, "logit_bias: [5], expected an object"),
    ({"prompt": "x", "logit_bias": {"640": 1}}, 'logit_bias: "640", expected the number of a tok'),
    ({"prompt": "x", "logit_bias": {"05": 1}}, 'logit_bias: "05"'),
    ({"prompt": "x", "logit_bias": {"the": 1}}, 'logit_bias: "the"'),
    ({"prompt": "x", "logit_bias": {"9" * 5000: 1}}, 'logit_bias: "999'),
    ({"prompt": "x", "logit_bias": {"5": 101}}, "logit_bias: 101 for token 5, expected a number"),
    ({"prompt": "x", "logit_bias": {"5": True}}, "logit_bias: true for token 5"),
    ({"prompt": "x", "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias: 1025 of them"),
    ({"prompt": "x", "suffix": "y"}, "suffix: "),
    ({"prompt": "x", "temprature": 1}, "did you mean temperature?"),
    ({"prompt": "x", "model": 5}, "model: 5"),
    ({"prompt": "x", "user": 5}, "user: 5"),
]
BODIES = [
    (b"", "not valid JSON"),
    (b'{"prompt": "The', "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b'{"prompt": "x", "temperature": NaN}', "no NaN in JSON"),
    (b'{"prompt": "x", "temperature": -Infinity}', "no -Infinity in JSON"),
    (b"9" * 5000, "not valid JSON"),
    (b"[" * 100_000, "nests more than 64"),
    (b'{"prompt": ' + b"[" * 975 + b"]" * 975 + b"}", "nests more than 64"),
    (b'{"max_tokens": ' + b"[" * 70 + b"]" * 70 + b"}", "nests more than 64"),
    (b"[1]", "the body is [1], expected an object"),
    (
        b'{"prompt": "' + b"word " * 200_000 + b'"}',
        "the prompt has 1,000,000 characters, and the first 768",
    ),
]


@pytest.mark.parametrize(("fields", "says"), FIELDS, ids=[says[:40] for _, says in FIELDS])
def test_bad_fields(here: Place, fields: dict, says: str) -> None:
    answer = here.complete(**fields)
    assert answer.status == 400 and says in answer.reason
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert answer.json["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("body", "says"), BODIES, ids=[says for _, says in BODIES])
def test_bad_bodies(here: Place, body: bytes, says: str) -> None:
    answer = here.ask("POST", "/v1/completions", body)
    assert answer.status == 400 and says in answer.reason and len(answer.reason) < 300


def test_a_body_that_is_too_large_or_of_another_kind(here: Place) -> None:
    answer = here.ask("POST", "/v1/completions", b'{"prompt": "' + b"x" * (2 << 20) + b'"}')
    assert answer.status == 413 and "more than 1,048,576 bytes" in answer.reason
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = here.ask("POST", "/v1/completions", b'{"prompt": "x"}', kind)
        assert answer.status == 415 and "application/json" in answer.reason


def test_values_without_an_effect_are_taken(here: Place) -> None:
    fields = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "suffix": None}
    more = {"best_of": 1, "logprobs": None, "stop": None, "top_k": -1, "stream": False}
    assert here.complete(prompt="x", max_tokens=1, **fields, **more).status == 200


def test_unknown_paths_methods_and_models(here: Place) -> None:
    answer = here.ask("GET", "/v1/embeddings")
    assert answer.status == 404 and "/v1/models/NAME, /v1/completions" in answer.reason
    assert answer.json["error"]["code"] == "unknown_url"
    answer = here.ask("GET", "/v1/completions")
    assert answer.status == 405 and answer.headers["allow"] == "POST" and answer.reason
    for answer in (here.ask("GET", "/v1/models/gpt"), here.complete(prompt="x", model="gpt")):
        assert answer.status == 404 and answer.json["error"]["code"] == "model_not_found"
    assert json.loads(here.ask("GET", "/health").body)["status"] == "ready"
