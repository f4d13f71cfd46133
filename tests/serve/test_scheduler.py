"""Who waits, who leaves, and what happens at the end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxneox.errors import UserError
from tests.limits import PATIENCE
from tests.serve.client import Client, Unanswered
from tests.serve.place import Place, place

LONG = {"prompt": "The", "max_tokens": 45, "temperature": 0, "return_token_ids": True}


def test_who_hangs_up_frees_a_row_at_once(here: Place) -> None:
    with here.slow(0.1) as steps:
        for _ in range(6):
            with contextlib.closing(here.stream(**LONG)) as events:
                next(events)
            with pytest.raises(TimeoutError):
                Client(here.port, timeout=0.1).complete(**LONG, n=6)
        assert here.settles(running=0, waiting=0)
        # 42 whole answers of 45 tokens in four slots were 472 steps; a busy machine takes 100
        assert len(steps) < 200
    assert here.complete(**LONG).json["choices"][0]["text"] == here.alone("The", max_tokens=45).text


def test_a_full_queue_is_said(here: Place) -> None:
    with ThreadPoolExecutor(1) as other, here.slow(0.1):
        first = other.submit(here.complete, **LONG, n=16)
        assert here.settles(running=4, waiting=12)
        answer = here.complete(**LONG, n=5)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "12 of 16 places" in answer.reason
        with pytest.raises(Unanswered, match="12 of 16"):
            next(here.stream(**LONG, n=5))
    assert len(first.result().json["choices"]) == 16


def test_a_request_has_its_time() -> None:
    with place(timeout=1) as here, here.slow(0.2) as steps:
        answer = here.complete(**LONG)
        assert answer.status == 504 and "1 s" in answer.reason
        *_, last = list_all(here.stream(**LONG))
        assert "1 s" in last["error"]["message"]
        # two whole answers were 90 steps, and in their two seconds there is time for ten
        assert here.settles(running=0) and len(steps) < 30


def list_all(events) -> list[dict]:
    """Of a stream that ends without its end."""
    found = []
    with pytest.raises(AssertionError, match="no end"):
        for event in events:
            found.append(event)
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_engine_is_told_to_all(capsys) -> None:
    with place() as here, ThreadPoolExecutor(6) as clients, pytest.MonkeyPatch.context() as patch:
        engine = here.scheduler.models.first.engine
        step, count = engine.step, iter(range(100))

        def breaks(active):
            time.sleep(0.05)
            if next(count) == 8:
                raise RuntimeError("out of memory")
            return step(active)

        patch.setattr(engine, "step", breaks)
        answers = list(clients.map(lambda _: here.complete(**LONG), range(6)))
        assert {answer.status for answer in answers} == {500}
        assert all("out of memory" in answer.reason for answer in answers)
        assert here.complete(**LONG).status == 500
        health = here.ask("GET", "/health")
        assert health.status == 503 and health.json["status"] == "failed"
        assert "out of memory" in health.json["reason"]
    assert "out of memory" in capsys.readouterr().err


def test_only_the_request_without_numbers_fails() -> None:
    with place(broken="~") as here, ThreadPoolExecutor(9) as clients:
        prompts = ["old man", "The~", "x", "~~", "a b c", "The man~ is", "!", "old~", "The"]
        echoed = {"echo": True, "logprobs": 1, "max_tokens": 0}
        for options in ({"temperature": 0, "max_tokens": 20}, {"seed": 3}, echoed):
            requests = [{"prompt": prompt, **options} for prompt in prompts]
            answers = list(clients.map(lambda request: here.complete(**request), requests))
            for prompt, answer in zip(prompts, answers, strict=True):
                assert answer.status == (500 if "~" in prompt else 200), prompt
                assert answer.status == 200 or "log-probability is nan" in answer.reason
        for prompt in ("x", "old man"):
            (choice,) = here.complete(prompt=prompt, temperature=0, max_tokens=30).json["choices"]
            assert choice["text"] == here.alone(prompt, max_tokens=30).text
        assert here.health["status"] == "ready"


def test_while_it_loads() -> None:
    loaded = threading.Event()

    def load(say):
        say("compiling")
        loaded.wait(20)
        raise UserError("no such checkpoint")

    with place(load=load) as here:
        assert here.settles(status="loading", doing="compiling")
        assert here.ask("GET", "/health").status == 503
        answer = here.complete(prompt="x")
        assert (
            answer.status == 503 and answer.headers["retry-after"] and "compiling" in answer.reason
        )
        loaded.set()
        assert here.settles(status="failed", reason="UserError: no such checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("grace", [20, 0.3])
def test_the_end_finishes_or_ends_what_runs(grace: float) -> None:
    with place() as here, here.slow(0.05), ThreadPoolExecutor(2) as clients:
        running = clients.submit(here.complete, **LONG)
        listening = clients.submit(lambda: list(here.stream(**LONG)))
        assert here.settles(running=2)
        here.scheduler.stop(grace)
        assert here.health["status"] == "stopping"
        answer = here.complete(prompt="x")
        assert answer.status == 503 and "shutting down" in answer.reason
        if grace > 10:
            assert running.result().status == 200 and len(listening.result()) == 45
        else:
            assert running.result().status == 503
            with pytest.raises(AssertionError, match="no end"):
                listening.result()
        assert here.settles(status="stopped")


ENDLESS = """
import os, signal, threading, time
from jaxneox.serve import server
from jaxneox.serve.access import rules_at
from jaxneox.serve.scheduler import Scheduler
from jaxneox.serve.models import ServedModels
from jaxneox.serve.served import Served
from jaxneox.templates import limited
from jaxneox.templates.prompts import ChatPrompts
from tests.infer.models import speaker
from tests.serve.client import Client

limited.SECONDS, server.GRACE = 300, 0.5
template = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
listener = server.bind("127.0.0.1", 0)
port = listener.getsockname()[1]

def load(say):
    model = speaker()
    chat = ChatPrompts(model.tokenizer, template, {}, "")
    chat.check()
    print(chat._template._process.pid, flush=True)
    return ServedModels([Served("speaker", model, slots=2, max_tokens=None, chat=chat)])

def ask():
    message = {"role": "user", "content": "x"}
    threading.Thread(target=Client(port).chat, args=(message,), daemon=True).start()
    time.sleep(1)
    print("asked", flush=True)

ready = lambda: threading.Thread(target=ask, daemon=True).start()
server.serve(listener, Scheduler(8), 300, rules_at("127.0.0.1", [], None), 64, load, ready)
"""


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_template() -> None:
    server = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    template = int(server.stdout.readline())
    try:
        assert server.stdout.readline() == "asked\n"
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
        assert time.monotonic() - began < 60  # else it is 300 s of a processor
    finally:
        server.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(template, signal.SIGKILL)
        server.stdout.close()
