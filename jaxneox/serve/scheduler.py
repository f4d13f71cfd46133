"""The one thread that owns the engines.

Prompts come in between two steps, one at a time, so that running answers wait for one prompt at
most.
"""

import collections
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from jaxneox.infer.tasks import Task, TaskUpdate
from jaxneox.serve.errors import RefusedRequest, later
from jaxneox.serve.jobs import Job
from jaxneox.serve.models import ServedModels
from jaxneox.serve.running import Running
from jaxneox.serve.served import Served

State = Literal["loading", "ready", "stopping", "stopped", "failed"]
Say = Callable[[str], None]
Load = Callable[[Say], ServedModels]
"""Makes what is served; it is given a function to call with what it is doing."""


class Scheduler:
    """Takes jobs by `submit`, from any thread, and notifies each of its progress.

    Attributes:
        queue: how many jobs may wait for a row.
        models: what is served; None while loading.
        fault: what ended the thread; None if nothing did.
    """

    def __init__(self, queue: int):
        self.queue = queue
        self.models: ServedModels | None = None
        self.fault: BaseException | None = None
        self._state: State = "loading"
        self._doing = "starting"
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: dict[Task, Job] = {}
        self._dropped: list[Job] = []
        self._end: float | None = None  # when what still runs is ended

    def health(self) -> dict[str, Any]:
        with self._changed:
            report: dict[str, Any] = {"status": self._state}
            if self._state == "loading":
                report["doing"] = self._doing
            if self.fault is not None:
                report["reason"] = _reason(self.fault)
            if self.models is not None:
                each = [described(served) for served in self.models.every]
                report |= each[0] | {"slots": self.models.first.engine.rows, "models": each}
            return report | {"running": len(self._running), "waiting": len(self._waiting)}

    def ready(self) -> ServedModels:
        """Return the models, if requests are taken now.

        Raises:
            RefusedRequest: nothing can be asked now.
        """
        with self._changed:
            if self._state == "failed":
                raise self._broken()
            if self._state == "loading":
                raise later(f"the server is not ready yet: {self._doing}")
            if self._state != "ready":
                raise later("the server is shutting down")
            assert self.models is not None
            return self.models

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all of these jobs, or none.

        Raises:
            RefusedRequest: the queue is full, or requests are not taken now.
        """
        with self._changed:
            self.ready()
            if len(self._waiting) + len(jobs) > self.queue:
                raise later(f"{len(self._waiting)} of {self.queue} places in the queue are taken")
            self._waiting.extend(jobs)
            self._changed.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Free the rows of these jobs before the next step; nothing happens to finished ones."""
        with self._changed:
            for job in jobs:
                if job in self._waiting:
                    self._waiting.remove(job)
                elif job.task in self._running:
                    self._dropped.append(job)
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """Take no more jobs, and end what is not finished after `grace` seconds."""
        with self._changed:
            if self._state in ("loading", "ready"):
                self._state, self._end = "stopping", time.monotonic() + grace
            self._changed.notify()

    def run(self, load: Load, ready: Callable[[], object] = lambda: None) -> None:
        """Run the thread until `stop` or a fault. `ready` is called when requests are taken."""
        try:
            models = load(self._say)
            running = Running(models)
            with self._changed:
                self.models = models
                if self._state == "loading":
                    self._state = "ready"
            ready()
            while self._wait(running):
                self._turn(running)
            self._finish("stopped", later("the server is shutting down"))
        except Stopped:
            self._finish("stopped", later("the server is shutting down"))
        except BaseException as error:
            self.fault = error
            if self.models is not None:  # else whoever waits for it has it from `fault`
                traceback.print_exc()
            self._finish("failed", self._broken())

    def _say(self, doing: str) -> None:
        with self._changed:
            self._doing = doing
            if self._state != "loading":
                raise Stopped

    def _wait(self, running: Running) -> bool:
        """Wait until there is something to do; return False when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: running or self._waiting or self._end is not None)
            if self._end is None:
                return True
            return bool(running or self._waiting) and time.monotonic() < self._end

    def _turn(self, running: Running) -> None:
        with self._changed:
            dropped, self._dropped = self._dropped, []
            for job in dropped:
                running.drop(job)
                self._running.pop(job.task, None)
            fresh = running.next(self._waiting)
            if fresh is not None:
                self._waiting.remove(fresh)
                self._running[fresh.task] = fresh
        if fresh is not None:
            self._tell(running.admit(fresh))
        self._tell(running.step())

    def _tell(self, updates: Iterable[TaskUpdate]) -> None:
        for task, text in updates:
            with self._changed:
                job = self._running.get(task) if task.room else self._running.pop(task, None)
            if job is not None and task.fault:
                job.fail(RefusedRequest(500, task.fault, code="no_numbers"))
            elif job is not None:
                job.report(text)

    def _finish(self, state: State, error: RefusedRequest) -> None:
        with self._changed:
            self._state = state
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        for job in left:
            job.fail(error)

    def _broken(self) -> RefusedRequest:
        reason = _reason(self.fault) if self.fault else "unknown"
        return RefusedRequest(500, f"the server has failed: {reason}", code="engine_failed")


class Stopped(Exception):
    """Raised inside `load` to end while the model is loading."""


def described(served: Served) -> dict[str, Any]:
    """Say what the page needs to know of a model."""
    chat = served.chat is not None
    return {"model": served.name, "context": served.context, "chat": chat}


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
