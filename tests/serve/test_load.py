"""Some seconds of the load trial: nothing is lost, mixed up or logged, whatever others do."""

import threading
import time

import pytest

from tests.serve.load import KEY, Case, Crowd
from tests.serve.place import place
from tests.serve.rude import HalfHeads

PROMPTS = ["The", "old man said to the boy", "x", "a b c"]
OPTIONS = [
    {},
    {"ignore_eos": True, "min_tokens": 4},
    {"temperature": 0.8, "top_p": 0.9, "seed": 7},
]
SECONDS = 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_crowd(capfd, caplog) -> None:
    with place(key=KEY, connections=40, queue=64) as here:
        cases = []
        for number, prompt in enumerate(PROMPTS * len(OPTIONS)):
            fields = {"max_tokens": 4 + number, **OPTIONS[number % len(OPTIONS)]}
            answer = here.alone(prompt, **fields)
            fields = {"prompt": here.model.encode(prompt), "temperature": 0, **fields}
            cases.append(Case(fields, answer.tokens, answer.text))
        crowd = Crowd(here.port, cases, time.monotonic() + SECONDS)
        half = HalfHeads(here.port, 80)
        clients = [threading.Thread(target=crowd.live, args=(i,)) for i in range(12)]
        clients.append(threading.Thread(target=half.keep_up, args=(crowd.end,)))
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert crowd.wrong == []
        assert crowd.count["closed"] <= 0.05 * sum(crowd.count.values())  # on a busy machine
        assert crowd.count["whole"] and crowd.count["garbage"] and half.closed
        assert here.settles(running=0, waiting=0)
    assert capfd.readouterr() == ("", "") and caplog.get_records("call") == []
