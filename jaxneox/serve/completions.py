"""`/v1/completions`: one request from its bytes to its answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jaxneox.serve.errors import Refused
from jaxneox.serve.jobs import Job, News
from jaxneox.serve.replies import Reply
from jaxneox.serve.requests import Wish, wish_of
from jaxneox.serve.scheduler import Scheduler
from jaxneox.serve.served import Served

LEAST_BODY = 1 << 20
CHARACTERS = 8
"""Bytes of a body for each token of a full queue of full prompts."""
POLITE = 16
"""So many times the largest body is still read, so that its sender hears why it is refused."""

READERS = 2
"""Bodies that are understood at the same time: large ones take much memory."""


class Completions:
    """The endpoint. `timeout` is in seconds, from a request's head to the end of its answer."""

    def __init__(self, scheduler: Scheduler, timeout: float):
        self._scheduler, self._timeout = scheduler, timeout
        self._readers = CapacityLimiter(READERS)

    async def __call__(self, request: Request) -> Response:
        served = self._scheduler.ready()
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, self._largest(served))
        except TimeoutError as error:
            raise Refused(408, f"the body did not come within {self._timeout:g} s") from error
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        most = self._scheduler.queue
        wish = await to_thread.run_sync(understand, body, served, most, limiter=self._readers)
        if isinstance(wish, Refused):
            raise wish
        exchange = Exchange(self._scheduler, wish, deadline, self._timeout)
        reply = Reply(served, wish)
        exchange.begin()
        if wish.stream:
            return EventStream(events(exchange, reply, wish), exchange.end)
        try:
            return await whole(request, exchange, reply)
        finally:
            exchange.end()

    def _largest(self, served: Served) -> int:
        return max(LEAST_BODY, CHARACTERS * served.context * self._scheduler.queue)


async def read_body(request: Request, most: int) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"content-type: {kind!r}, expected application/json")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > POLITE * most:
            break
        if size <= most:
            parts.append(part)
    if size > most:
        raise Refused(413, f"the body has more than {most:,} bytes")
    return b"".join(parts)


def understand(body: bytes, served: Served, most: int) -> Wish | Refused:
    """A reason that is raised across threads would keep its frames, and the body with them, until
    a garbage collection."""
    try:
        return wish_of(body, served, most)
    except Refused as refused:
        refused.__cause__ = refused.__context__ = None
        return refused.with_traceback(None)


class Exchange:
    """The jobs of a request, and what is heard of them."""

    def __init__(self, scheduler: Scheduler, wish: Wish, deadline: float, timeout: float):
        self._scheduler, self._deadline, self._timeout = scheduler, deadline, timeout
        inbox: asyncio.Queue[News] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(news: News) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(inbox.put_nowait, news)

        self._inbox = inbox
        self._jobs = [Job(i, task, wish.stream, tell) for i, task in enumerate(wish.choices)]

    def begin(self) -> None:
        self._scheduler.submit(self._jobs)

    def end(self) -> None:
        self._scheduler.cancel(self._jobs)

    async def next(self) -> News:
        try:
            async with asyncio.timeout_at(self._deadline):
                news = await self._inbox.get()
        except TimeoutError as error:
            message = f"not finished within {self._timeout:g} s"
            raise Refused(504, message, code="timeout") from error
        if news.error is not None:
            raise news.error
        return news


async def whole(request: Request, exchange: Exchange, reply: Reply) -> Response:
    """The answer when all is there; less work where the client has left."""

    async def finish() -> Response:
        for _ in reply.choices:  # each is told once, at its end
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


async def events(exchange: Exchange, reply: Reply, wish: Wish) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each new text, at last the usage where wanted."""
    usage = {"usage": None} if wish.usage else {}
    left = len(reply.choices)
    try:
        while left:
            news = await exchange.next()
            left -= news.finished
            if news.text or news.finished or wish.token_ids:
                task = wish.choices[news.index]
                said = reply.choices[news.index].part(task, news.text, news.tokens, news.finished)
                yield event(reply.frame | {"choices": [said]} | usage)
    except Refused as refused:  # the status has been sent
        yield event(refused.body())
        return
    if wish.usage:
        yield event(reply.frame | {"choices": [], "usage": reply.usage()})
    yield "data: [DONE]\n\n"


def event(body: dict[str, object]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, allow_nan=False)}\n\n"


class EventStream(StreamingResponse):
    """`close` is called however it ends, also before its first event."""

    def __init__(self, content: AsyncIterator[str], close: Callable[[], None]):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()
