"""Clients that people use, each in an environment of its own that needs nothing of ours.

$JAXNEOX_OPENAI is the Python of an environment that has them: `pip install openai langchain-openai
litellm`. Without it this one is tried, and what it lacks is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.place import Place, place

PYTHON = os.environ.get("JAXNEOX_OPENAI", sys.executable)
LETTERS = {ord(letter): 3.0 for letter in "abcdefghijklmnopqrstuvwxyz ,."}
"""Makes the model speak in letters: most of its own tokens have no text, and all look alike."""
TALK = [
    {"role": "system", "content": "Be."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": [{"type": "text", "text": t} for t in ("A", "B")]},
]
RENDERED = "s:Be.\nu:Hello\na:Hi\nu:A\nB\na:"
WORDS = ("Hello", "Bye", "x")
PROMPTS = ("The old man", "x", "Bye")


def client(module: str, script: str, case: Any, here: Place, *more: str) -> None:
    """Let a script ask the server; it prints what is wrong, a line each."""
    if subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip(f"no {module}: JAXNEOX_OPENAI=PYTHON of an environment that has it")
    path = Path(__file__).parent / script
    command = (PYTHON, path, f"http://localhost:{here.port}/v1", *more)
    done = subprocess.run(command, input=json.dumps(case), text=True, capture_output=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def case_of(here: Place) -> dict[str, Any]:
    """What to ask, and the answers that the model alone gives."""

    def answer(prompt: str, **options: Any) -> str:
        return here.alone(prompt, max_tokens=9, logit_bias=LETTERS, **options).text

    words = {word: answer(f"u:{word}\na:") for word in WORDS}
    stop = words["Hello"][4:6]
    assert len(set(words.values())) > 1 and words["Hello"].isascii()
    return {
        "fields": {"temperature": 0, "logit_bias": LETTERS},
        "length": 9,
        "words": words,
        "prompts": {prompt: answer(prompt) for prompt in PROMPTS},
        "messages": TALK,
        "text": answer(RENDERED),
        "stop": stop,
        "stopped": answer("u:Hello\na:", stop=[stop]),
        "silenced": answer("u:Hello\na:\nu:Bye\na:"),
    }


@pytest.mark.slow
def test_openais_own_client(here: Place) -> None:
    case = case_of(here)
    fields = case["fields"] | {"max_completion_tokens": 9}
    case = {"messages": TALK, "fields": fields, "text": case["text"]}
    client("openai", "openai_chat.py", case, here)


@pytest.mark.slow
def test_openais_own_client_completes_prompts() -> None:
    with place(key="secret") as there:
        there.headers = {"Authorization": "Bearer secret"}
        case = case_of(there)
        fields = case["fields"] | {"max_tokens": 9}
        cases = [
            {"prompt": prompt, "fields": fields, "text": text}
            for prompt, text in case["prompts"].items()
        ]
        client("openai", "openai_calls.py", cases, there, "secret")


@pytest.mark.slow
def test_langchain(here: Place) -> None:
    client("langchain_openai", "langchain_calls.py", case_of(here), here)


@pytest.mark.slow
def test_litellm(here: Place) -> None:
    client("litellm", "litellm_calls.py", case_of(here), here)
