"""Conversations: the same answers as to the rendered text in Python, in OpenAI's words."""

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jaxneox.data.companions import Companions
from jaxneox.infer.sampling import MOST_ENDS
from tests.serve.client import CHAT
from tests.serve.place import Place, place

GREEDY = {"temperature": 0, "max_tokens": 9}
HELLO = {"role": "user", "content": "Hello"}
TALK = [
    {"role": "system", "content": "Be."},
    HELLO,
    {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": []},
    {"role": "user", "content": [{"type": "text", "text": t} for t in ("A", "B")]},
]
"""Its text: s:Be., u:Hello, a:Hi, u:A, B."""
RENDERED = "s:Be.\nu:Hello\na:Hi\nu:A\nB\na:"


def test_a_greedy_answer_is_that_to_the_rendered_text(here: Place) -> None:
    body = here.chat(*TALK, **GREEDY).json
    alone = here.alone(here.model.encode(RENDERED), max_tokens=9)
    (choice,) = body["choices"]
    message = {"role": "assistant", "content": alone.text, "refusal": None}
    assert choice == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    size = len(RENDERED)
    usage = {"prompt_tokens": size, "completion_tokens": 9, "total_tokens": size + 9}
    assert body["usage"] == usage


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(here: Place) -> None:
    options = {"include_usage": True}
    *parts, last = here.stream_chat(HELLO, **GREEDY, n=2, stream_options=options)
    alone = here.alone("u:Hello\na:", max_tokens=9)
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 18
    for index in (0, 1):
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in own) == alone.text
        assert [part["finish_reason"] for part in own] == [None] * (len(own) - 1) + ["length"]


def test_all_that_the_context_has_room_for_unless_told(here: Place) -> None:
    for name in ({}, {"max_tokens": 30}, {"max_completion_tokens": 30}):
        choice = here.chat(HELLO, temperature=0, return_token_ids=True, **name).json["choices"][0]
        room = 30 if name else 48 - len("u:Hello\na:")
        alone = here.alone("u:Hello\na:", max_tokens=room)
        assert choice["token_ids"] == alone.tokens


def test_drawn_answers_repeat_by_their_seed_also_in_company(here: Place) -> None:
    def ask(number: int) -> list[list[int]]:
        fields = {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "seed": number, "n": 2}
        body = here.chat(HELLO, max_tokens=8, return_token_ids=True, **fields).json
        return [choice["token_ids"] for choice in body["choices"]]

    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(ask, range(8)))
    drawn = {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "max_tokens": 8}
    for number, answers in enumerate(found):
        expected = [here.alone("u:Hello\na:", seed=number + i, **drawn).tokens for i in (0, 1)]
        assert answers == expected


def test_log_probabilities_in_the_form_of_chat(here: Place) -> None:
    fields = {"logprobs": True, "top_logprobs": 20, "return_token_ids": True}
    body = here.chat(HELLO, **GREEDY, **fields).json
    alone = here.alone("u:Hello\na:", max_tokens=9)
    content = body["choices"][0]["logprobs"]["content"]
    assert [one["logprob"] for one in content] == pytest.approx(alone.logprobs, abs=1e-5)
    assert body["prompt_token_ids"] == here.model.encode("u:Hello\na:")
    for one, token in zip(content, alone.tokens, strict=True):
        assert len(one["top_logprobs"]) == 20
        best = one["top_logprobs"][0]
        assert {name: one[name] for name in ("token", "logprob", "bytes")} == best
        known = one["token"] != f"token_id:{token}"
        assert one["bytes"] == (list(one["token"].encode()) if known else None)
    streamed = [
        one
        for part in here.stream_chat(HELLO, **GREEDY, **fields)
        for one in (part["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == content
    (choice,) = here.chat(HELLO, max_tokens=1, logprobs=True).json["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []


def test_it_stops_at_strings_and_at_every_end_token(here: Place, monkeypatch) -> None:
    free = here.alone("u:Hello\na:", max_tokens=20)
    served = here.scheduler.models.first
    (choice,) = here.chat(HELLO, temperature=0, stop=free.text[5:7]).json["choices"]
    end = free.text.index(free.text[5:7])
    assert (choice["message"]["content"], choice["finish_reason"]) == (free.text[:end], "stop")
    stop = Companions(stop=(free.tokens[6],))
    monkeypatch.setattr(served.tokenizer, "companions", stop)
    cut = free.tokens.index(free.tokens[6])
    fields = {"temperature": 0, "max_tokens": 20, "return_token_ids": True}
    (choice,) = here.chat(HELLO, **fields).json["choices"]
    assert (choice["token_ids"], choice["finish_reason"]) == (free.tokens[:cut], "stop")
    monkeypatch.setattr(served.chat, "ends", (free.tokens[1],))  # comes before that
    cut = free.tokens.index(free.tokens[1])
    (choice,) = here.chat(HELLO, **fields).json["choices"]
    assert (choice["token_ids"], choice["finish_reason"]) == (free.tokens[:cut], "stop")
    (choice,) = here.chat(HELLO, ignore_eos=True, **fields).json["choices"]
    assert choice["token_ids"] == free.tokens
    monkeypatch.setattr(served.chat, "ends", (9999,))  # a token that the model does not have
    assert here.chat(HELLO, min_tokens=1, **fields).status == 200
    monkeypatch.setattr(served.chat, "ends", tuple(range(100, 100 + MOST_ENDS)))
    answer = here.chat(HELLO, min_tokens=1, **fields)
    assert answer.status == 400 and "tokens would end an answer" in answer.reason


def test_values_for_the_template(here: Place) -> None:
    fields = {"chat_template_kwargs": {"mood": "gay"}, "add_generation_prompt": False}
    body = here.chat(HELLO, **GREEDY, **fields, return_token_ids=True).json
    assert body["prompt_token_ids"] == here.model.encode("u:Hello\ngay\n")
    developer = {"role": "developer", "content": "Be."}
    body = here.chat(developer, HELLO, max_tokens=1, return_token_ids=True).json
    assert body["prompt_token_ids"] == here.model.encode("s:Be.\nu:Hello\na:")


PART = {"type": "text", "text": "Hello"}
CACHED = {"cache_control": {"type": "ephemeral"}, "prompt_cache_breakpoint": {"mode": "explicit"}}
SENT_BACK = {
    "a mark for caches on a message": ({**HELLO, **CACHED}, "u:Hello"),
    "and on a part": ({"role": "user", "content": [{**PART, **CACHED}]}, "u:Hello"),
    "null in a part": ({"role": "user", "content": [{**PART, "cache_control": None}]}, "u:Hello"),
    "an empty answer": ({"role": "assistant", "content": ""}, "a:"),
    "null as an empty answer": ({"role": "assistant", "content": None, "tool_calls": []}, "a:"),
    "no parts as an empty answer": ({"role": "assistant", "content": []}, "a:"),
    "LiteLLM's fields": (
        {"role": "assistant", "content": "Hi", "images": [], "provider_specific_fields": {}},
        "a:Hi",
    ),
    "vLLM's fields": (
        {"role": "assistant", "content": "Hi", "reasoning": "", "reasoning_content": None},
        "a:Hi",
    ),
}


@pytest.mark.parametrize("what", SENT_BACK)
def test_messages_as_clients_send_them_back(here: Place, what: str) -> None:
    message, text = SENT_BACK[what]
    answer = here.chat(message, HELLO, max_tokens=1, return_token_ids=True)
    assert answer.status == 200, answer.reason
    assert answer.json["prompt_token_ids"] == here.model.encode(f"{text}\nu:Hello\na:")


HARMLESS = {
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "prediction": {"type": "content", "content": "x"},
    "store": False,
    "user": "me",
    "metadata": {},
    "service_tier": "auto",
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "audio": None,
    "verbosity": "medium",
    "stream_options": {"include_usage": False},
}
REFUSED = {
    "tools": [{"type": "function"}],
    "tool_choice": "required",
    "functions": [{}],
    "response_format": {"type": "json_object"},
    "audio": {"voice": "x"},
    "modalities": ["text", "audio"],
    "reasoning_effort": "high",
    "web_search_options": {},
    "store": True,
    "echo": True,
    "chat_template": "x",
    "continue_final_message": True,
    "stream_options": {"include_usage": True},
}
BAD = [
    ({"messages": None}, "messages: missing"),
    ({"messages": []}, "messages: [], expected"),
    ({"messages": "Hello"}, 'messages: "Hello", expected'),
    ({"messages": ["Hello"]}, 'messages[0]: "Hello", expected'),
    ({"messages": [HELLO, {"content": "x"}]}, "messages[1].role: null, expected one of"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 'messages[0].role: ["user"]'),
    ({"messages": [{"role": "tool", "content": "x"}]}, 'messages[0].role: "tool" is not supp'),
    ({"messages": [{"role": "user"}]}, "messages[0].content: null, expected"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content: 5"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content: []"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, 'messages[0].content[0]: "x"'),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        'messages[0].content[0].type: "image_url" is not supported: the model reads text',
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ".content[0]: {"),
    ({"messages": [{**HELLO, "tool_calls": [{}]}]}, "messages[0].tool_calls: [{}]"),
    ({"messages": [{**HELLO, "reasoning": "x"}]}, 'messages[0].reasoning: "x" is not supported'),
    ({"messages": [{**HELLO, "cache_control": 5}]}, "messages[0].cache_control: 5, expected an ob"),
    ({"messages": [{"role": "user", "content": [{**PART, "id": 5}]}]}, ".content[0]: {"),
    ({"messages": [{"role": "user", "content": [{"type": 5, "text": "x"}]}]}, ".content[0]: {"),
    ({"messages": [{**HELLO, "mood": "x"}]}, 'messages[0]: "mood" is not a field of a message'),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a surrogate pair"),
    ({"messages": [{**HELLO, "name": 5}]}, "messages[0].name: 5"),
    ({"messages": [{"role": "user", "content": "x" * 60}]}, "context is 48 tokens"),
    ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "has 100,005 characters"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens: 5, expected 6 as max_comp"),
    ({"max_tokens": 0}, "max_tokens: 0, expected a whole number from 1 to 48"),
    ({"top_logprobs": 2}, "top_logprobs: 2, expected logprobs: true beside it"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: 21"),
    ({"logprobs": 5}, "logprobs: 5, expected true or false"),
    ({"prompt": "x"}, '"prompt" is not a field of a chat completion'),
    ({"temprature": 1}, "did you mean temperature?"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs: {"),
    ({"model": "gpt"}, "does not exist"),
]


def test_what_changes_nothing_is_taken(here: Place) -> None:
    answer = here.chat(HELLO, **GREEDY, **HARMLESS)
    assert answer.status == 200, answer.reason


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_something_is_refused_by_its_name(here: Place, name: str) -> None:
    answer = here.chat(HELLO, **{name: REFUSED[name]})
    assert answer.status == 400 and answer.reason.startswith(f"{name}: ")
    assert answer.json["error"]["param"] == name


@pytest.mark.parametrize(("fields", "says"), BAD, ids=[says[:40] for _, says in BAD])
def test_bad_fields(here: Place, fields: dict, says: str) -> None:
    answer = here.ask("POST", CHAT, json.dumps({"messages": [HELLO], **fields}).encode())
    assert answer.status in (400, 404) and says in answer.reason


def test_without_a_template_the_option_is_named() -> None:
    with place(template=None) as here:
        answer = here.chat(HELLO)
        assert answer.status == 400 and answer.json["error"]["code"] == "no_chat_template"
        assert here.health["chat"] is False
        assert here.complete(prompt="x", max_tokens=1).status == 200


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@contextlib.contextmanager
def rendering(here: Place, *messages: dict) -> Iterator[Future]:
    """The answer to a conversation whose template does not end, until its time is called up."""
    prompts = here.scheduler.models.first.chat
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(here.chat, *messages)
        while not prompts._lock.locked() and not answer.done():
            time.sleep(0.01)
        yield answer
        assert not answer.done()  # it was at it all the while
        prompts._template._process.send_signal(signal.SIGPROF)  # as at the end of its seconds


def test_a_template_that_fails_or_does_not_end_holds_up_nobody(monkeypatch) -> None:
    monkeypatch.setattr("jaxneox.templates.limited.SECONDS", 3600)
    source = (
        f"{{% if messages[0].content == 'loop' %}}{ENDLESS}{{% endif %}}"
        "{% if messages[0].content == 'no' %}{{ raise_exception('not so') }}{% endif %}u:a:"
    )
    with place(template=source) as here:
        with rendering(here, {"role": "user", "content": "loop"}) as answer:
            assert here.health["status"] == "ready"
            assert here.complete(prompt="x", max_tokens=1).status == 200
        found = answer.result()
        assert found.status == 400 and "takes longer than 3600 seconds" in found.reason
        found = here.chat({"role": "user", "content": "no"})
        assert found.status == 400 and found.reason.endswith("render them: not so")
        assert here.chat(HELLO, max_tokens=1).status == 200


def test_a_request_that_waits_for_the_template_has_its_time(monkeypatch) -> None:
    monkeypatch.setattr("jaxneox.templates.limited.SECONDS", 3600)
    with place(template=ENDLESS, timeout=0.5) as here, rendering(here, HELLO):
        answer = here.chat(HELLO)
        assert answer.status == 504 and "0.5 s" in answer.reason
