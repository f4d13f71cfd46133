"""The models that are served: a base, or a base and its adapters, each under a name of its own."""

from collections.abc import Iterable, Iterator, Sequence

from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.served import Served


class ServedModels:
    """All models of a server.

    Attributes:
        first: answers the requests that name no model.
        every: all of them, the first one included.
        caches: how many of them may have a cache at a time.
    """

    def __init__(self, every: Sequence[Served], caches: int | None = None):
        """Take the models.

        Args:
            every: at least one, with names that differ.
            caches: how many of them may have a cache at a time; all unless given.
        """
        self.every, self.first = list(every), every[0]
        self.caches = min(caches or len(every), len(every))
        self._named = {served.name: served for served in every}

    @property
    def context(self) -> int:
        """The longest context of all."""
        return max(served.context for served in self.every)

    def may_have_cache(self, served: Served, idle: Iterable[Served]) -> bool:
        """Tell whether a model has a cache, or can have one now; see `give_cache`."""
        if served.engine.allocated or self._allocated < self.caches:
            return True
        return any(one.engine.allocated for one in idle)

    def give_cache(self, served: Served, idle: Iterable[Served]) -> None:
        """Give a model a cache, unless it has one.

        Args:
            served: the model.
            idle: models of which the first that has a cache loses it, where there are as many as
                there may be.
        """
        if served.engine.allocated:
            return
        if self._allocated >= self.caches:
            next(one for one in idle if one.engine.allocated).engine.free()
        served.engine.allocate()

    def warm(self) -> Iterator[str]:
        """Compile all programs that may be asked for; yield what comes next, before it is done.

        Models of one form share them.
        """
        known = set()
        for served in self.every:
            if served.engine.programs not in known:
                known.add(served.engine.programs)
                self.give_cache(served, self.every)
                yield from served.engine.warm()

    @property
    def _allocated(self) -> int:
        return sum(served.engine.allocated for served in self.every)

    def named(self, name: str | None) -> Served:
        """Find the model that a request asks for.

        Raises:
            RefusedRequest: there is none of this name.
        """
        if name is None:
            return self.first
        if name not in self._named:
            there = ", ".join(map(repr, self._named))
            raise RefusedRequest(
                404,
                f"the model {name!r} does not exist; this server has {there}",
                param="model",
                code="model_not_found",
            )
        return self._named[name]
