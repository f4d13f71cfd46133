"""A server in this process: its scheduler and its loop in threads of their own."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from jaxneox.loading import LoadedModel
from jaxneox.serve.access import rules_at
from jaxneox.serve.models import ServedModels
from jaxneox.serve.scheduler import Load, Scheduler
from jaxneox.serve.served import Served
from jaxneox.serve.server import CONNECTIONS, Server, bind
from jaxneox.templates.prompts import ChatPrompts
from tests.infer.models import speaker
from tests.limits import PATIENCE
from tests.serve.client import Client

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}"
    "{% if mood %}{{ mood }}\n{% endif %}{% if add_generation_prompt %}a:{% endif %}"
)


class Place(Client):
    """A client of its own server.

    Attributes:
        model: another one with the same weights, to ask what an answer should be.
    """

    def __init__(self, port: int, scheduler: Scheduler, server: Server, model: LoadedModel):
        super().__init__(port, timeout=PATIENCE)
        self.scheduler, self.server, self.model = scheduler, server, model

    @property
    def health(self) -> dict[str, Any]:
        return self.ask("GET", "/health").json

    def alone(self, prompt: str | list[int], **options: Any):
        (answer,) = self.model.generate([prompt], **options)
        return answer

    def settles(self, **expected: Any) -> bool:
        """Wait until health says so, and tell whether it does; a fast machine needs an instant."""
        end = time.monotonic() + PATIENCE
        while not (found := expected.items() <= self.health.items()) and time.monotonic() < end:
            time.sleep(0.01)
        return found

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[list[Any]]:
        """Every step takes so long, more or less. Yields a list that grows by one with each."""
        assert self.scheduler.models is not None
        engine = self.scheduler.models.first.engine
        step, steps = engine.step, []

        def late(active):
            steps.append(active)
            time.sleep(seconds)
            return step(active)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "step", late)
            yield steps


@contextlib.contextmanager
def place(
    *,
    tokenizer: bool = True,
    broken: str = "",
    queue: int = 16,
    timeout: float = 60,
    load: Load | None = None,
    names: Sequence[str] = (),
    key: str | None = None,
    connections: int = CONNECTIONS,
    template: str | None = TEMPLATE,
) -> Iterator[Place]:
    def ready(say) -> ServedModels:
        model = speaker(tokenizer=tokenizer, broken=broken)
        chat: ChatPrompts | str = "there is no template"
        if template is not None and model.tokenizer is not None:
            chat = ChatPrompts(model.tokenizer, template, {}, "")
        return ServedModels([Served("speaker", model, slots=4, max_tokens=None, chat=chat)])

    listener = bind("127.0.0.1", 0)
    scheduler = Scheduler(queue)
    server = Server(scheduler, timeout, rules_at("127.0.0.1", names, key), connections)
    threads = [
        threading.Thread(target=scheduler.run, args=(load or ready,)),
        threading.Thread(target=server.run, args=([listener],)),
    ]
    for thread in threads:
        thread.start()
    here = Place(listener.getsockname()[1], scheduler, server, speaker(tokenizer=tokenizer))
    try:
        if load is None:
            assert here.settles(status="ready")
        yield here
    finally:
        server.should_exit = True
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
