"""One choice of a request on its way through the scheduler."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxneox.infer.tasks import Task
from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.served import Served


@dataclass(frozen=True)
class JobUpdate:
    """One token more, or the end.

    Attributes:
        index: the number of the choice.
        text: the text that has become certain.
        tokens: how many tokens its answer has by now.
        finished: whether this is the end.
        error: why there is no answer.
    """

    index: int
    text: str
    tokens: int
    finished: bool
    error: RefusedRequest | None = None


@dataclass(eq=False)
class Job:
    """A task of a model, and whom to notify of it.

    `tell` is called from the scheduler's thread; only at the end, unless `each` is set.
    """

    served: Served
    index: int
    task: Task
    each: bool
    tell: Callable[[JobUpdate], None]

    @property
    def takes_row(self) -> bool:
        return self.task.room > 1 or not self.task.scored

    def report(self, text: str) -> None:
        finished = not self.task.room
        if self.each or finished:
            self.tell(JobUpdate(self.index, text, len(self.task.answer.tokens), finished))

    def fail(self, error: RefusedRequest) -> None:
        self.tell(JobUpdate(self.index, "", len(self.task.answer.tokens), True, error))
