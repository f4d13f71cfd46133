"""LangChain's ChatOpenAI and OpenAI: `python langchain_calls.py URL < case.json`.

It runs in an environment that has `langchain-openai`, which needs nothing of ours. The case has
what to ask and the texts that must come. Prints what is wrong, a line each.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import openai
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

case = json.load(sys.stdin)
(model,) = [m.id for m in openai.OpenAI(base_url=sys.argv[1], api_key="none").models.list()]
call = {"model": model, "base_url": sys.argv[1], "api_key": "none", "max_retries": 0}
call |= case["fields"] | {"max_tokens": case["length"]}
chat, llm, found = ChatOpenAI(**call), OpenAI(**call), []
words, prompts = case["words"], case["prompts"]
Call = Callable[[], Any]


class Joke(BaseModel):
    """A joke to tell the user."""

    setup: str = Field(description="the question of the joke")


def expect(what: str, given: Any, expected: Any) -> None:
    if given != expected:
        found.append(f"{what}: {given!r}, alone {expected!r}")


def refused(what: str, name: str, ask: Call) -> None:
    try:
        found.append(f"{what}: {ask()!r}")
    except openai.BadRequestError as error:
        if error.param != name or not error.body["message"].startswith(f"{name}: "):
            found.append(f"{what}: {error}")


def joined(parts: Iterable[Any]) -> str:
    return "".join(part.content for part in parts)


def conversation() -> None:
    expect("messages", chat.invoke(case["messages"]).content, case["text"])
    for word, text in words.items():
        expect("invoke", chat.invoke(word).content, text)
        expect("stream", joined(chat.stream(word)), text)
    expect("batch", [one.content for one in chat.batch([*words])], [*words.values()])
    stops = ([case["stop"]], case["stop"], [case["stop"], "#"])
    for stop in stops:
        expect("stop", chat.bind(stop=stop).invoke("Hello").content, case["stopped"])
        expect("stop", joined(chat.bind(stop=stop).stream("Hello")), case["stopped"])
    whole = chat.bind(logprobs=True, top_logprobs=3).invoke("Hello")
    expect("logprobs", len(whole.response_metadata["logprobs"]["content"]), case["length"])
    usage = sum_of(ChatOpenAI(**call, stream_usage=True).stream("Hello")).usage_metadata
    for name in ("input_tokens", "output_tokens", "total_tokens"):
        expect(name, usage[name], whole.usage_metadata[name])
    (several,) = ChatOpenAI(**call, n=2, seed=5).generate([[HumanMessage("Hello")]]).generations
    expect("n", [one.text for one in several], [words["Hello"]] * 2)


def sum_of(parts: Iterable[Any]) -> Any:
    first, *rest = parts
    for part in rest:
        first += part
    return first


def sent_back() -> None:
    """Send an answer back without a word in it; in its newer form it has no parts then."""
    for version in ("v0", "v1"):
        model = ChatOpenAI(**call, output_version=version)
        silent = model.bind(stop=[words["Hello"][0]])
        for answer in (silent.invoke("Hello"), sum_of(silent.stream("Hello"))):
            messages = [HumanMessage("Hello"), answer, HumanMessage("Bye")]
            expect(f"{version} sent back", model.invoke(messages).text, case["silenced"])


def not_here() -> None:
    for method, name in (
        ("json_schema", "response_format"),
        ("json_mode", "response_format"),
        ("function_calling", "tools"),
    ):
        held = chat.with_structured_output(Joke, method=method)
        refused(f"{method} invoked", name, lambda held=held: held.invoke("Hello"))
        refused(f"{method} streamed", name, lambda held=held: list(held.stream("Hello")))
    tools = chat.bind_tools([Joke], tool_choice="any", parallel_tool_calls=False)
    refused("tools", "tools", lambda: tools.invoke("Hello"))
    refused("effort", "reasoning_effort", lambda: chat.bind(reasoning_effort="low").invoke("Hello"))


def completions() -> None:
    for prompt, text in prompts.items():
        expect("completion", llm.invoke(prompt), text)
        expect("completion streamed", "".join(llm.stream(prompt)), text)
    expect("completions", llm.batch([*prompts]), [*prompts.values()])
    text = next(iter(prompts.values()))
    stop = text[3:5]
    for stopping in (stop, [stop]):
        cut = llm.bind(stop=stopping).invoke(next(iter(prompts)))
        expect("completion stopped", cut, text[: text.index(stop)])
    best = OpenAI(**call, best_of=3, n=2, seed=7).generate([*prompts]).generations
    expect(
        "best_of",
        [[one.text for one in each] for each in best],
        [[x] * 2 for x in prompts.values()],
    )


async def company() -> None:
    expect("abatch", [one.content for one in await chat.abatch([*words])], [*words.values()])
    expect("astream", joined([part async for part in chat.astream("Bye")]), words["Bye"])
    expect("ainvoke", (await chat.ainvoke("Bye")).content, words["Bye"])
    expect("completions", await llm.abatch([*prompts]), [*prompts.values()])
    expect("astream", "".join([part async for part in llm.astream("x")]), prompts["x"])


conversation()
sent_back()
not_here()
completions()
asyncio.run(company())
print(*found, sep="\n", end="\n" if found else "")
sys.exit(bool(found))
