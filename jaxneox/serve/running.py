"""The answers that run now, of all models, and which of these have a cache."""

from collections.abc import Iterable, Iterator

from jaxneox.infer.tasks import ActiveTasks, TaskUpdate
from jaxneox.serve.jobs import Job
from jaxneox.serve.models import ServedModels
from jaxneox.serve.served import Served


class Running:
    """Runs answers of several models in turn; it is true while there are any.

    A model whose cache was taken gets one again when it is asked for. Where there are as many
    caches as there may be, it takes that of a model which has been idle longest.
    """

    def __init__(self, models: ServedModels):
        self._models = models
        self._active = {served: ActiveTasks(served.engine) for served in models.every}
        self._used: dict[Served, None] = dict.fromkeys(models.every)  # the one used last is last

    def __bool__(self) -> bool:
        return any(self._active.values())

    def next(self, waiting: Iterable[Job]) -> Job | None:
        """Choose the job that starts now: the first whose model has room for it.

        Jobs behind one that waits for a cache wait with it, so that a model becomes idle and gives
        its cache up.
        """
        full = set()
        for job in waiting:
            if job.served in full:
                continue
            if not self._models.may_have_cache(job.served, self._idle()):
                return None
            if self._active[job.served].free or not job.takes_row:
                return job
            full.add(job.served)
        return None

    def admit(self, job: Job) -> Iterator[TaskUpdate]:
        """Start a job that `next` chose."""
        active = self._active[job.served]
        self._models.give_cache(job.served, self._idle())
        self._used.pop(job.served)
        self._used[job.served] = None
        yield from active.admit_scored(job.task) if job.task.scored else active.admit([job.task])

    def step(self) -> Iterator[TaskUpdate]:
        """Go on with the answers of each model by one token."""
        for active in self._active.values():
            yield from active.step()

    def drop(self, job: Job) -> None:
        """End a job early and free its row."""
        self._active[job.served].drop(job.task)

    def _idle(self) -> list[Served]:
        """List the models that do nothing, the one first that has been asked for longest ago."""
        return [served for served in self._used if not self._active[served]]
