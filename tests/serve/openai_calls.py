"""OpenAI's own client against a server: `python openai_calls.py URL KEY < cases.json`.

It runs in an environment that has `openai`, which needs nothing of ours. Each case is a prompt,
other fields and the text that must come. Prints what is wrong, a line each.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key=key, max_retries=20, timeout=300)
(model,) = [found.id for found in client.models.list()]


def check(case: dict) -> str | None:
    prompt, text, fields = case["prompt"], case["text"], dict(case["fields"])
    extra = {name: fields.pop(name) for name in ("ignore_eos", "min_tokens") if name in fields}
    call = {"model": model, "prompt": prompt, "extra_body": extra, "user": "me", **fields}
    whole = client.completions.create(**call, logprobs=2)
    parts = client.completions.create(**call, stream=True, stream_options={"include_usage": True})
    streamed, usage = "", None
    for part in parts:
        streamed += "".join(choice.text for choice in part.choices)
        usage = part.usage or usage
    if whole.choices[0].text != text or streamed != text:
        return f"{prompt}: {whole.choices[0].text!r}, {streamed!r}, alone {text!r}"
    return None if usage == whole.usage else f"{usage} is not {whole.usage}"


def refused() -> str | None:
    try:
        openai.OpenAI(base_url=url, api_key="no", max_retries=0).models.list()
    except openai.AuthenticationError:
        pass
    else:
        return "a wrong key was taken"
    try:
        client.completions.create(model=model, prompt="x", temperature=-1)
    except openai.BadRequestError as error:
        return None if "temperature" in str(error) else str(error)
    return "a wrong temperature was taken"


with ThreadPoolExecutor(8) as pool:
    wrong = [found for found in [*pool.map(check, json.load(sys.stdin)), refused()] if found]
print(*wrong, sep="\n", end="\n" if wrong else "")
sys.exit(bool(wrong))
