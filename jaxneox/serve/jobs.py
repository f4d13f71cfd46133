"""A choice of a request on its way through the scheduler."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxneox.infer.batch import Task
from jaxneox.serve.errors import Refused


@dataclass(frozen=True)
class News:
    """One token more, or the end.

    Attributes:
        index: of the choice.
        text: what is certain now and was not before.
        tokens: how many its answer has by now.
    """

    index: int
    text: str
    tokens: int
    finished: bool
    error: Refused | None = None


@dataclass(eq=False)
class Job:
    """`tell` is called from the scheduler's thread; without `each` only at the end."""

    index: int
    task: Task
    each: bool
    tell: Callable[[News], None]

    @property
    def takes_row(self) -> bool:
        return self.task.room > 1 or not self.task.scored

    def report(self, text: str) -> None:
        finished = not self.task.room
        if self.each or finished:
            self.tell(News(self.index, text, len(self.task.answer.tokens), finished))

    def fail(self, error: Refused) -> None:
        self.tell(News(self.index, "", len(self.task.answer.tokens), True, error))
