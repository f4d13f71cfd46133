"""`/v1/completions` and `/v1/chat/completions`: one request from its bytes to its answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

from anyio import CancelScope, CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.jobs import Job, JobUpdate
from jaxneox.serve.models import ServedModels
from jaxneox.serve.replies import Reply
from jaxneox.serve.requests import CompletionRequest
from jaxneox.serve.scheduler import Scheduler

LEAST_BODY = 1 << 20
CHARACTERS = 8
"""Bytes of a body for each token of a full queue of full prompts."""
READ_ANYWAY = 16
"""A body of up to so many times the limit is still read, so that its sender gets the error."""

BODY = 60.0
"""Seconds in which a body must come, if --timeout is not less."""

READERS = 2
"""Bodies that are parsed at the same time: large ones take much memory."""

Parse = Callable[[bytes, ServedModels, int], CompletionRequest]


class Completions:
    """An endpoint."""

    def __init__(
        self,
        scheduler: Scheduler,
        timeout: float,
        parse: Parse,
        reply: type[Reply],
        readers: int = READERS,
    ):
        """Make an endpoint.

        Args:
            scheduler: answers its requests.
            timeout: seconds from a request's head to the end of its answer.
            parse: makes a request of (its body, what is served, the most answers it may have).
            reply: writes the answer.
            readers: how many bodies are parsed at the same time.
        """
        self._scheduler, self._timeout = scheduler, timeout
        self._parse, self._reply = parse, reply
        self._readers = CapacityLimiter(readers)

    async def __call__(self, request: Request) -> Response:
        models = self._scheduler.ready()
        deadline = asyncio.get_running_loop().time() + self._timeout
        limit = min(self._timeout, BODY)
        try:
            async with asyncio.timeout(limit):
                body = await read_body(request, self._largest(models))
        except TimeoutError as error:
            raise RefusedRequest(408, f"the body did not come within {limit:g} s") from error
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        most = self._scheduler.queue
        with CancelScope(deadline=deadline) as waiting:  # for a reader; it is not interrupted
            completion = await to_thread.run_sync(
                understand, self._parse, body, models, most, limiter=self._readers
            )
        if waiting.cancelled_caught:
            raise overdue(self._timeout)
        if isinstance(completion, RefusedRequest):
            raise completion
        exchange = Exchange(self._scheduler, completion, deadline, self._timeout)
        reply = self._reply(completion.served, completion)
        exchange.begin()
        if completion.stream:
            return EventStream(events(exchange, reply, completion), exchange.end)
        try:
            return await whole(request, exchange, reply)
        finally:
            exchange.end()

    def _largest(self, models: ServedModels) -> int:
        return max(LEAST_BODY, CHARACTERS * models.context * self._scheduler.queue)


async def read_body(request: Request, most: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedRequest(415, f"content-type: {kind!r}, expected application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > READ_ANYWAY * most:
            break
        if size <= most:
            parts.append(part)
    if size > most:
        raise RefusedRequest(413, f"the body has more than {most:,} bytes")
    return b"".join(parts)


def understand(
    parse: Parse, body: bytes, models: ServedModels, most: int
) -> CompletionRequest | RefusedRequest:
    """Parse a body; return an error instead of raising it.

    An exception that is raised across threads would keep its frames, and the body with them, until
    a garbage collection.
    """
    try:
        return parse(body, models, most)
    except RefusedRequest as refused:
        refused.__cause__ = refused.__context__ = None
        return refused.with_traceback(None)


def overdue(timeout: float) -> RefusedRequest:
    return RefusedRequest(504, f"not finished within {timeout:g} s", code="timeout")


class Exchange:
    """The jobs of a request, and the updates that come from them."""

    def __init__(
        self, scheduler: Scheduler, completion: CompletionRequest, deadline: float, timeout: float
    ):
        self._scheduler, self._deadline, self._timeout = scheduler, deadline, timeout
        inbox: asyncio.Queue[JobUpdate] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def notify(update: JobUpdate) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(inbox.put_nowait, update)

        self._inbox = inbox
        served, stream = completion.served, completion.stream
        self._jobs = [
            Job(served, i, task, stream, notify) for i, task in enumerate(completion.choices)
        ]

    def begin(self) -> None:
        self._scheduler.submit(self._jobs)

    def end(self) -> None:
        self._scheduler.cancel(self._jobs)

    async def next(self) -> JobUpdate:
        try:
            async with asyncio.timeout_at(self._deadline):
                update = await self._inbox.get()
        except TimeoutError as error:
            raise overdue(self._timeout) from error
        if update.error is not None:
            raise update.error
        return update


async def whole(request: Request, exchange: Exchange, reply: Reply) -> Response:
    """Answer when all choices are finished; stop the work if the client leaves."""

    async def finish() -> Response:
        for _ in reply.choices:  # each is notified once, at its end
            await exchange.next()
        return JSONResponse(await to_thread.run_sync(reply.whole))

    async def leave() -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response(status_code=499)  # nobody reads it

    ways = [asyncio.ensure_future(finish()), asyncio.ensure_future(leave())]
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        return (ways[0] if ways[0] in done else ways[1]).result()
    finally:
        for way in ways:
            way.cancel()


async def events(
    exchange: Exchange, reply: Reply, completion: CompletionRequest
) -> AsyncIterator[str]:
    """Yield server-sent events: a chunk for each new text, and at last the usage if asked for."""
    usage: dict[str, object] = {"usage": None} if completion.usage else {}
    every_token = completion.token_ids or completion.continuous_usage
    left = len(reply.choices)
    for opening in reply.openings():
        if completion.continuous_usage:
            usage = {"usage": reply.usage(so_far=True)}
        yield event(opening | usage)
    try:
        while left:
            update = await exchange.next()
            left -= update.finished
            if update.text or update.finished or every_token:
                task = completion.choices[update.index]
                choice = reply.choices[update.index].part(
                    task, update.text, update.tokens, update.finished
                )
                if completion.continuous_usage:
                    usage = {"usage": reply.usage(so_far=True)}
                yield event(reply.frame | {"choices": [choice]} | usage)
    except RefusedRequest as refused:  # the status has been sent
        yield event(refused.body())
        return
    if completion.usage:
        yield event(reply.frame | {"choices": [], "usage": reply.usage()})
    yield "data: [DONE]\n\n"


def event(body: dict[str, object]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


class EventStream(StreamingResponse):
    """A streamed response that calls `close` however it ends, also before its first event."""

    def __init__(self, content: AsyncIterator[str], close: Callable[[], None]):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
