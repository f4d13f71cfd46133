"""OpenAI's own client in a conversation: `python openai_chat.py URL < case.json`.

It runs in an environment that has `openai`, which needs nothing of ours. The case has the messages,
other fields and the text that must come. Prints what is wrong, a line each.
"""

import asyncio
import json
import sys

import openai

case = json.load(sys.stdin)
where = {"base_url": sys.argv[1], "api_key": "none", "max_retries": 0, "timeout": 300}
client, crowd = openai.OpenAI(**where), openai.AsyncOpenAI(**where)
(model,) = [found.id for found in client.models.list()]
call = {"model": model, "messages": case["messages"], **case["fields"]}


async def company() -> list[str]:
    asked = [crowd.chat.completions.create(**call) for _ in range(6)]
    return [one.choices[0].message.content for one in await asyncio.gather(*asked)]


def wrong() -> list[str]:
    found = []
    whole = client.chat.completions.create(**call, logprobs=True, top_logprobs=3)
    (choice,) = whole.choices
    if (choice.message.role, choice.message.content) != ("assistant", case["text"]):
        found.append(f"{choice.message}, alone {case['text']!r}")
    if len(choice.logprobs.content) != whole.usage.completion_tokens:
        found.append(f"{len(choice.logprobs.content)} log-probabilities: {whole.usage}")
    call["stream_options"] = {"include_usage": True}
    parts = list(client.chat.completions.create(**call, stream=True))
    del call["stream_options"]
    text = "".join(c.delta.content or "" for part in parts for c in part.choices)
    if text != case["text"] or parts[0].choices[0].delta.role != "assistant":
        found.append(f"streamed {text!r}, alone {case['text']!r}")
    if parts[-1].usage != whole.usage or parts[-2].choices[0].finish_reason != "length":
        found.append(f"a stream ends with {parts[-2:]}")
    with client.chat.completions.stream(**call) as stream:  # puts the chunks together itself
        try:
            together = stream.get_final_completion()
        except openai.LengthFinishReasonError as error:  # as it takes every answer that is cut
            together = error.completion
        if together.choices[0].message.content != case["text"]:
            found.append(f"put together {together}")
    found += [f"in company {text!r}" for text in asyncio.run(company()) if text != case["text"]]
    try:
        client.chat.completions.create(**call, tools=[{"type": "function"}])
        found.append("tools were taken")
    except openai.BadRequestError as error:
        if error.param != "tools":
            found.append(str(error))
    return found


lines = wrong()
print(*lines, sep="\n", end="\n" if lines else "")
sys.exit(bool(lines))
