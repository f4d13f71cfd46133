"""Many clients for minutes, some of them rude: `python -m tests.serve.load CKPT [--minutes 5]`.

Each answer is compared with that of `LoadedModel.generate` to the same prompt alone; greedy and
seeded draws, with and without ends, whole, streamed and as guidellm asks for them. Meanwhile 800
connections hold half of a head, and others send foreign names, wrong keys, 1 MB prompts and what
is no HTTP. `--openai PYTHON` is that of an environment with `openai`, whose client asks as well.
Prints a report; exits with 1 where something is lost, mixed up, leaked, logged or refused without
a reason.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.serve.client import Client, Unanswered
from tests.serve.rude import HalfHeads, foreign, garbage, wrong_key

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("JAXNEOX_SHARED", ROOT.parent / "shared"))
KEY = "only-for-this-trial"
BAD: list[tuple[bytes, int]] = [
    (b'{"prompt": "The', 400),
    (b"[1, 2]", 400),
    (b'{"prompt": "' + b"word " * 200_000 + b'"}', 400),
    (b'{"prompt": "' + b"word " * 400_000 + b'"}', 413),
    (b'{"prompt": "The", "temperature": NaN}', 400),
    (b'{"prompt": "The", "temperature": -1}', 400),
    (b'{"prompt": "The", "top_p": "0.5"}', 400),
    (b'{"prompt": "The", "max_tokens": 1e99}', 400),
    (b'{"prompt": "The", "n": true}', 400),
    (b'{"prompt": [1, 99999999]}', 400),
    (b'{"prompt": "The", "suffix": "x"}', 400),
    (b'{"prompt": "The", "model": "gpt-5"}', 404),
]


@dataclasses.dataclass
class Case:
    fields: dict[str, Any]
    tokens: list[int]
    text: str | None


def cases_of(checkpoint: str, count: int, seed: int) -> list[Case]:
    """Prompts of mixed lengths out of novels, with their answers, one by one."""
    import jaxneox

    model = jaxneox.load(checkpoint)
    assert model.tokenizer is not None
    draw = random.Random(seed)
    texts = [path.read_text() for path in sorted((SHARED / "data" / "novels").rglob("*.txt"))]
    context, cases = model.config.model.seq_length, []
    for number in range(count):
        text = draw.choice(texts)
        start = draw.randrange(len(text) - 4000)
        most = draw.choice((8, 40, context // 2, context - 40))
        prompt = model.tokenizer.encode(text[start : start + 4000])[: draw.randint(1, most)]
        wanted = draw.choice((1, 4, 16, 32, 64))
        warm = {"temperature": 0.8, "top_p": 0.9, "seed": number} if number % 5 == 0 else {}
        until: dict[str, Any] = {"ignore_eos": True} if number % 3 == 0 else {}
        until |= {"min_tokens": min(8, wanted)} if number % 4 == 0 else {}
        (answer,) = model.generate([prompt], max_tokens=wanted, rows=1, **warm, **until)
        fields = {"prompt": prompt, "max_tokens": wanted, "temperature": 0, **warm, **until}
        cases.append(Case(fields, answer.tokens, answer.text))
    return cases


class Crowd:
    """What the clients do, and what comes of it."""

    def __init__(self, port: int, cases: list[Case], end: float):
        self.client, self.cases, self.end = Client(port), cases, end
        self.client.headers = {"Authorization": f"Bearer {KEY}"}
        self.count: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.first: list[float] = []
        self.whole: list[float] = []
        self.tokens = 0
        self._lock = threading.Lock()

    def live(self, number: int) -> None:
        draw = random.Random(number)
        ways = (self.ask, self.listen, self.measure, self.score, self.leave, self.err, self.intrude)
        while time.monotonic() < self.end:
            (way,) = draw.choices(ways, weights=(45, 20, 10, 5, 12, 8, 8))
            try:
                kind = way(draw)
            except Unanswered as refused:
                kind = f"refused {refused.status}"
                time.sleep(draw.random())
            except ConnectionError:  # at the limit, a head that was not read in time
                kind = "closed"
            except Exception as error:
                kind = "lost"
                self.blame(f"{way.__name__}: {type(error).__name__}: {error}")
            with self._lock:
                self.count[kind] += 1

    def blame(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)

    def check(self, case: Case, tokens: list[int], text: str) -> None:
        with self._lock:
            self.tokens += len(tokens)
        if (tokens, text) != (case.tokens, case.text):
            self.blame(f"{case.fields} -> {tokens}, alone {case.tokens}")

    def ask(self, draw: random.Random) -> str:
        case, began = draw.choice(self.cases), time.monotonic()
        answer = self.client.complete(**case.fields, return_token_ids=True)
        if answer.status == 503:
            raise Unanswered(503, answer.reason)
        (choice,) = answer.json["choices"]
        self.check(case, choice["token_ids"], choice["text"])
        self.whole.append(time.monotonic() - began)
        return "whole"

    def listen(self, draw: random.Random) -> str:
        case, began = draw.choice(self.cases), time.monotonic()
        tokens: list[int] = []
        text, first = "", 0.0
        for event in self.client.stream(**case.fields, return_token_ids=True):
            first = first or time.monotonic() - began
            (choice,) = event["choices"]
            tokens, text = tokens + choice["token_ids"], text + choice["text"]
        self.first.append(first)
        self.check(case, tokens, text)
        return "streamed"

    def measure(self, draw: random.Random) -> str:
        """As guidellm does."""
        case, text, count = draw.choice(self.cases), "", 0
        options = {"include_usage": True, "continuous_usage_stats": True}
        for event in self.client.stream(**case.fields, stop=None, stream_options=options):
            text += "".join(choice["text"] for choice in event["choices"])
            if event["usage"]["completion_tokens"] < count:
                self.blame(f"usage falls from {count} to {event['usage']}")
            count = event["usage"]["completion_tokens"]
        if (text, count) != (case.text, len(case.tokens)):
            self.blame(f"{case.fields} -> {text!r}, {count} tokens, alone {case.text!r}")
        return "measured"

    def intrude(self, draw: random.Random) -> str:
        way = draw.choice((garbage, foreign, wrong_key))
        if wrong := way(self.client, draw):
            self.blame(f"{way.__name__}: {wrong}")
        return way.__name__

    def score(self, draw: random.Random) -> str:
        prompt = draw.choice(self.cases).fields["prompt"]
        answer = self.client.complete(prompt=prompt, max_tokens=1, echo=True, logprobs=1)
        if answer.status == 503:
            raise Unanswered(503, answer.reason)
        found = answer.json["choices"][0]["logprobs"]["token_logprobs"]
        if len(found) not in (len(prompt), len(prompt) + 1) or None in found[1:]:
            self.blame(f"{len(found)} log-probabilities of {len(prompt)} tokens")
        return "scored"

    def leave(self, draw: random.Random) -> str:
        """Gone after some events, or before the first."""
        fields = draw.choice(self.cases).fields | {"max_tokens": 64}
        if draw.random() < 0.5:
            with contextlib.closing(self.client.stream(**fields)) as events:
                for _, _ in zip(range(draw.randint(1, 5)), events, strict=False):
                    pass
        else:
            with contextlib.suppress(TimeoutError):
                hasty = Client(self.client.port, timeout=draw.uniform(0.01, 0.3))
                hasty.headers = self.client.headers
                hasty.complete(**fields)
        return "left"

    def err(self, draw: random.Random) -> str:
        body, status = draw.choice(BAD)
        answer = self.client.ask("POST", "/v1/completions", body)
        if answer.status != status or not answer.reason:
            self.blame(f"{body[:50]!r}: {answer.status} {answer.body[:200]!r}")
        return f"bad {answer.status}"


def resident(pid: int) -> float:
    """MiB in memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def start(checkpoint: str) -> tuple[subprocess.Popen[str], int]:
    command = (sys.executable, "-m", "jaxneox.serve", checkpoint, "--port", "0")
    server = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAXNEOX_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if ready := re.match(r"ready at http://.*:(\d+)", line):
            return server, int(ready[1])
    raise SystemExit("the server did not start")


def ask_by_openai(python: str, port: int, crowd: Crowd) -> None:
    """Let OpenAI's client ask, again and again."""
    cases = []
    for case in crowd.cases:
        fields = {name: value for name, value in case.fields.items() if name != "prompt"}
        cases.append({"prompt": case.fields["prompt"], "text": case.text, "fields": fields})
    command = (python, ROOT / "tests/serve/openai_calls.py", f"http://localhost:{port}/v1", KEY)
    while time.monotonic() < crowd.end:
        some = json.dumps(random.sample(cases, 16))
        done = subprocess.run(command, input=some, text=True, capture_output=True, cwd="/")
        if done.returncode:
            crowd.blame(f"openai: {done.stdout[:300]} {done.stderr[-300:]}")
        crowd.count["by openai's client"] += 2 * 16


def times(name: str, seconds: list[float]) -> str:
    if not seconds:
        return f"{name}: none"
    middle, late, last = np.percentile(seconds, (50, 95, 100))
    return f"{name}: median {middle:.2f} s, 95 of 100 within {late:.2f} s, longest {last:.2f} s"


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("checkpoint")
    p.add_argument("--minutes", type=float, default=5)
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--cases", type=int, default=150)
    p.add_argument("--half-heads", type=int, default=800)
    p.add_argument("--openai", metavar="PYTHON")
    args = p.parse_args()
    began = time.monotonic()
    cases = cases_of(args.checkpoint, args.cases, seed=1)
    print(f"{len(cases)} prompts answered one by one in {time.monotonic() - began:.0f} s")
    server, port = start(args.checkpoint)
    crowd = Crowd(port, cases, time.monotonic() + 60 * args.minutes)
    clients = [threading.Thread(target=crowd.live, args=(i,)) for i in range(args.clients)]
    half = HalfHeads(port, args.half_heads)
    clients.append(threading.Thread(target=half.keep_up, args=(crowd.end,)))
    if args.openai:
        clients.append(threading.Thread(target=ask_by_openai, args=(args.openai, port, crowd)))
    began, memory = time.monotonic(), []
    for client in clients:
        client.start()
    while time.monotonic() < crowd.end:
        memory.append((time.monotonic() - began, resident(server.pid)))
        time.sleep(min(2, 12 * args.minutes))
    for client in clients:
        client.join()
    seconds = time.monotonic() - began
    time.sleep(1)
    health = crowd.client.ask("GET", "/health").json
    server.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    status = server.wait(30)
    print(f"ended {time.monotonic() - stopped:.1f} s after SIGTERM")
    logged = server.stdout.read() if server.stdout else ""
    if logged:
        crowd.blame(f"logged: {logged[:500]}")
    print(f"{half.opened} half-sent heads, {half.closed} of them closed by the server")
    print(json.dumps(health), f"exit status {status}")
    print(dict(crowd.count))
    print(f"{crowd.tokens:,} tokens checked: {crowd.tokens / seconds:.0f} tokens/s")
    print(times("first token", crowd.first), times("whole answers", crowd.whole), sep="\n")
    late = [point for point in memory if point[0] > seconds / 3]
    slope = np.polyfit(*zip(*late, strict=True), 1)[0] * 60 if len(late) > 2 else 0.0
    print(
        f"memory: {memory[0][1]:.0f} MiB at first, {late[0][1]:.0f} after a third, "
        f"{memory[-1][1]:.0f} at the end, highest {max(m for _, m in memory):.0f}; "
        f"in the last two thirds {slope:+.1f} MiB a minute"
    )
    print(f"{len(crowd.wrong)} wrong", *crowd.wrong[:10], sep="\n")
    idle = health["running"] == health["waiting"] == 0
    sys.exit(bool(crowd.wrong) or status != 0 or not idle)


if __name__ == "__main__":
    main()
