"""LiteLLM: `python litellm_calls.py URL < case.json`.

It runs in an environment that has `litellm`, which needs nothing of ours. The case has what to ask
and the texts that must come. Prints what is wrong, a line each.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise it waits for a list of prices
import litellm

litellm.suppress_debug_info = True
case = json.load(sys.stdin)
where = {"api_base": sys.argv[1], "api_key": "none"}
(model,) = litellm.get_valid_models(
    check_provider_endpoint=True, custom_llm_provider="openai", **where
)
call = {**where, "max_retries": 0, "max_tokens": case["length"], **case["fields"]}
words, prompts, found = case["words"], case["prompts"], []
CHAT = {"model": f"openai/{model}", **call}
TEXT = [{"model": f"{kind}/{model}", **call} for kind in ("openai", "text-completion-openai")]
TOOLS = [{"type": "function", "function": {"name": "joke", "parameters": {"type": "object"}}}]


def expect(what: str, given: Any, expected: Any) -> None:
    if given != expected:
        found.append(f"{what}: {given!r}, alone {expected!r}")


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(answer: Any) -> str:
    return answer.choices[0].message.content


def joined(parts: Iterable[Any]) -> str:
    return "".join(c.delta.content or "" for part in parts for c in part.choices)


def texts(parts: Iterable[Any]) -> str:
    return "".join(c.text or "" for part in parts for c in part.choices)


def ask(content: Any, **more: Any) -> Any:
    return litellm.completion(**CHAT, messages=[user(content)], **more)


def refused(name: str, ask: Callable[..., Any], **fields: Any) -> None:
    try:
        found.append(f"{name}: {ask(**fields)}")
    except litellm.BadRequestError as error:
        if f"{name}: " not in str(error):
            found.append(f"{name}: {error}")


def conversation() -> None:
    answer = litellm.completion(**CHAT, messages=case["messages"])
    expect("messages", said(answer), case["text"])
    usage = {"include_usage": True}
    for word, text in words.items():
        whole = ask(word)
        expect("completion", said(whole), text)
        expect("stream", joined(ask(word, stream=True)), text)
        parts = list(ask(word, stream=True, stream_options=usage))
        expect("stream with usage", joined(parts), text)
        expect("usage", parts[-1].usage.total_tokens, whole.usage.total_tokens)
    for stop in (case["stop"], [case["stop"]], [case["stop"], "#"]):
        expect("stop", said(ask("Hello", stop=stop)), case["stopped"])
    scored = ask("Hello", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    expect("logprobs", len(scored), case["length"])
    messages = [[user(word)] for word in words]
    batch = litellm.batch_completion(**CHAT, messages=messages)
    expect("batch_completion", [said(one) for one in batch], [*words.values()])


def marked() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "text", "text": "Hello", **mark}
    expect("a marked part", said(ask([part])), words["Hello"])
    points = [{"location": "message", "role": "user"}]
    given = ask("Hello", cache_control_injection_points=points)
    expect("a marked message", said(given), words["Hello"])


def sent_back() -> None:
    stop = words["Hello"][0]
    whole = ask("Hello", stop=stop).choices[0].message
    parts = litellm.stream_chunk_builder(list(ask("Hello", stop=stop, stream=True)))
    built = parts.choices[0].message
    empty = {"role": "assistant", "content": None}
    for answer in (whole, whole.model_dump(), built, built.model_dump(), empty):
        messages = [user("Hello"), answer, user("Bye")]
        given = litellm.completion(**CHAT, messages=messages)
        expect("sent back", said(given), case["silenced"])


def harmless() -> None:
    for fields in (
        {"user": "me", "metadata": {"run": "1"}, "store": False, "service_tier": "auto"},
        {"n": 1, "seed": 5, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0.0},
        {"response_format": {"type": "text"}, "modalities": ["text"], "stop": []},
        {"parallel_tool_calls": False, "tool_choice": "auto", "logprobs": False},
        {"reasoning_effort": "none", "safety_identifier": "me", "prompt_cache_key": "x"},
        {"max_completion_tokens": case["length"], "stream_options": {"include_usage": True}},
    ):
        expect(f"{fields}", said(ask("Hello", **fields)), words["Hello"])


def not_here() -> None:
    asked = {"content": "Hello"}
    refused("tools", ask, **asked, tools=TOOLS, tool_choice="auto")
    refused("tools", ask, **asked, tools=TOOLS, stream=True)
    refused("functions", ask, **asked, functions=[{"name": "joke", "parameters": {}}])
    refused("response_format", ask, **asked, response_format={"type": "json_object"})
    refused("reasoning_effort", ask, **asked, reasoning_effort="low")
    refused("temperature", litellm.text_completion, **{**TEXT[1], "prompt": "x", "temperature": 3})


def completions() -> None:
    for kind in TEXT:
        for prompt, text in prompts.items():
            expect("text_completion", texts([litellm.text_completion(**kind, prompt=prompt)]), text)
            parts = litellm.text_completion(**kind, prompt=prompt, stream=True)
            expect("text_completion streamed", texts(parts), text)
        several = litellm.text_completion(**kind, prompt=[*prompts])
        expect("prompts", [one.text for one in several.choices], [*prompts.values()])
    echoed = litellm.text_completion(**TEXT[1], prompt="x", echo=True, n=2, best_of=2, user="me")
    expect("echo", [one.text for one in echoed.choices], ["x" + prompts["x"]] * 2)


async def company() -> None:
    asked = [litellm.acompletion(**CHAT, messages=[user(word)]) for word in words]
    expect("acompletion", [said(one) for one in await asyncio.gather(*asked)], [*words.values()])
    stream = await litellm.acompletion(**CHAT, messages=[user("Bye")], stream=True)
    expect("acompletion streamed", joined([part async for part in stream]), words["Bye"])
    answer = await litellm.atext_completion(**TEXT[1], prompt="x")
    expect("atext_completion", texts([answer]), prompts["x"])


conversation()
marked()
sent_back()
harmless()
not_here()
completions()
asyncio.run(company())
print(*found, sep="\n", end="\n" if found else "")
sys.exit(bool(found))
