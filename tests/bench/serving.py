"""`jaxneox serve` under load beside `transformers serve`: `python -m tests.bench.serving`.

Both serve the same random weights of a shape of Pythia's, in float32, one server at a time, in
turns. Each of the clients asks for a completion, waits for the whole of it and asks again. A prompt
is 64 tokens of words, an answer 64 tokens; what both answer is compared once, greedily. `--peer` is
a Python with what `pip install transformers[serving]` brings, `--peer-path` a folder with it.
"""

import argparse
import concurrent.futures
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.sizes import SIZES, Case

SHARED = Path(os.environ.get("JAXNEOX_SHARED", "../shared"))
WORDS = ("time", "person", "year", "way", "day", "thing", "man", "world", "life", "hand")
LENGTH = 64  # tokens of a prompt, and of an answer
PATIENCE = 300.0  # seconds until a server has started


class Load(NamedTuple):
    """What a server did: tokens a second, and the seconds of each answer."""

    rate: float
    seconds: list[float]

    def percentile(self, share: float) -> float:
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def write(size: str, folder: Path) -> dict[str, Path]:
    """Write a model with the 20B's tokenizer as transformers has it, and convert it to ours."""
    from transformers import PreTrainedTokenizerFast

    from tests.bench.theirs.model import model_of

    hf, ours = folder / "hf", folder / "ours"
    model = model_of(Case(size, 1, 2048))
    model.generation_config.eos_token_id = None  # an answer ends where it was asked to
    model.config.eos_token_id = None
    model.save_pretrained(hf)
    file = str(SHARED / "data" / "tokenizer" / "20B_tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file).save_pretrained(hf)
    words = [sys.executable, "-m", "jaxneox", "convert", "from-hf", str(hf), str(ours)]
    subprocess.run([*words, "--no-verify"], check=True, capture_output=True)
    return {"jaxneox": ours, "transformers": hf}


def prompt(number: int) -> str:
    """Words of one token each, another text for each number."""
    return " ".join(WORDS[(number // 10**i + i) % 10] for i in range(LENGTH))


@contextmanager
def serving(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            end = time.monotonic() + PATIENCE
            while not answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    sys.exit(f"{command}: has not started:\n{said.read()[-2000:]}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return answer.status == 200 and b"loading" not in answer.read()
    except OSError:
        return False


def complete(port: int, text: str, model: str) -> dict:
    fields = {"model": model, "prompt": text, "max_tokens": LENGTH, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(fields).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.loads(answer.read())


def load(port: int, model: str, clients: int, each: int) -> Load:
    """Let clients ask one after another; the tokens are those that the server counts."""

    def ask(client: int) -> list[tuple[float, int]]:
        found = []
        for number in range(each):
            began = time.perf_counter()
            usage = complete(port, prompt(client * each + number), model)["usage"]
            found.append((time.perf_counter() - began, usage["completion_tokens"]))
        return found

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        done = [one for client in pool.map(ask, range(clients)) for one in client]
    taken = time.perf_counter() - began
    return Load(sum(tokens for _, tokens in done) / taken, [seconds for seconds, _ in done])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def commands(args: argparse.Namespace, models: dict[str, Path], port: int) -> dict[str, list[str]]:
    """Return the command of each server."""
    ours = [sys.executable, "-m", "jaxneox", "serve", str(models["jaxneox"]), "--name", "it"]
    theirs = [args.peer, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    theirs += [str(models["transformers"]), "--device", "cpu", "--dtype", "float32"]
    theirs += ["--continuous-batching"] * args.continuous_batching
    at = ["--port", str(port), "--host", "127.0.0.1"]
    return {
        "jaxneox": [*ours, *at, "--slots", str(args.slots)],
        "transformers": [*theirs, *at],
    }


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.bench.serving", description=__doc__)
    p.add_argument("--size", choices=SIZES, default="70m")
    p.add_argument("--clients", type=int, default=16)
    p.add_argument("--each", type=int, default=4, help="requests of a client in a round")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--slots", type=int, default=16, help="of ours; theirs has no such limit")
    p.add_argument("--continuous-batching", action="store_true", help="of theirs")
    p.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    p.add_argument("--peer-path", default="", metavar="FOLDER")
    return p


def main() -> None:
    args = parser().parse_args()
    found: dict[str, list[Load]] = {"jaxneox": [], "transformers": []}
    texts: dict[str, str] = {}
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as name:
        models, port = write(args.size, Path(name)), free_port()
        names = {"jaxneox": "it", "transformers": str(models["transformers"])}
        paths = {"jaxneox": {}, "transformers": {"PYTHONPATH": args.peer_path}}
        for number in range(args.rounds):
            for who, command in commands(args, models, port).items():
                with serving(command, port, environment | paths[who]):
                    (choice,) = complete(port, prompt(10**6), names[who])["choices"]
                    texts[who] = choice["text"]
                    load(port, names[who], args.clients, 1)  # what is compiled at first use
                    one = load(port, names[who], args.clients, args.each)
                found[who].append(one)
                print(
                    f"round {number}, {who}: {one.rate:.0f} tokens/s, p50 {one.percentile(0.5):.2f}"
                    f" s, p99 {one.percentile(0.99):.2f} s",
                    flush=True,
                )
    same = "the same" if texts["jaxneox"] == texts["transformers"] else "OTHER"
    ours, theirs = (statistics.median(one.rate for one in loads) for loads in found.values())
    print(f"{ours / theirs:.2f} x transformers serve; {same} greedy answer")


if __name__ == "__main__":
    main()
