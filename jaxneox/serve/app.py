"""The routes, and errors as OpenAI writes them."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxneox.serve.access import AccessRules
from jaxneox.serve.chat_replies import ChatReply
from jaxneox.serve.chat_requests import chat_request
from jaxneox.serve.completions import Completions
from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.replies import Reply
from jaxneox.serve.requests import completion_request
from jaxneox.serve.scheduler import Scheduler
from jaxneox.serve.served import Served

PAGE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
POLICY += "connect-src 'self'; img-src data:; form-action 'none'; frame-ancestors 'none'"

REST = 32 << 20
REST_SECONDS = 5.0
"""How much of a body is read, and for how long, when its request has been refused already."""


class Guarded:
    """An application that refuses, before a body is read, what its rules do not allow."""

    def __init__(self, app: ASGIApp, access: AccessRules):
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = Body(receive)

        async def send_all(message: Message) -> None:
            """Let the client read an answer before the connection closes on what it sends."""
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if last and not body.ended:
                await send({**message, "more_body": True})
                await body.discard()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            self._access.check(scope)
        except RefusedRequest as refused:
            await refuse(refused)(scope, body.receive, send_all)
        else:
            await self._app(scope, body.receive, send_all)


class Body:
    """The body of a request on its way; `ended` says whether all of it has come."""

    def __init__(self, receive: Receive):
        self._receive, self.ended = receive, False

    async def receive(self) -> Message:
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body")
        return message

    async def discard(self) -> None:
        """Read the rest, as far as it comes soon."""
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while not self.ended and size < REST:
                    size += len((await self.receive()).get("body", b""))


def make_app(scheduler: Scheduler, timeout: float, access: AccessRules) -> Guarded:
    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY})

    async def health(request: Request) -> Response:
        state = scheduler.health()
        return JSONResponse(state, 200 if state["status"] == "ready" else 503)

    async def models(request: Request) -> Response:
        data = [described(served) for served in scheduler.ready().every]
        return JSONResponse({"object": "list", "data": data})

    async def model(request: Request) -> Response:
        return JSONResponse(described(scheduler.ready().named(request.path_params["name"])))

    completions = Completions(scheduler, timeout, completion_request, Reply)
    chats = Completions(scheduler, timeout, chat_request, ChatReply, readers=1)  # one template

    async def complete(request: Request) -> Response:
        return await completions(request)

    async def chat(request: Request) -> Response:
        return await chats(request)

    routes = [
        Route("/", page),
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]
    paths = ", ".join(route.path.replace("{name:path}", "NAME") for route in routes)

    async def other(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{request.method} {request.scope['path'][:200]}"  # its URL would trust the Host
        what = {404: f"{where}: no such path; there are {paths}", 405: f"{where}: wrong method"}
        message = what.get(error.status_code, str(error.detail))
        code = "unknown_url" if error.status_code == 404 else None
        return refuse(RefusedRequest(error.status_code, message, code=code, headers=error.headers))

    handlers: dict[Any, Any] = {RefusedRequest: refused, HTTPException: other, Exception: failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False  # so that no Host is sent back as an address
    return Guarded(app, access)


def described(served: Served) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "jaxneox",
        "max_model_len": served.context,
    }


async def refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)
    return refuse(error)


async def failed(request: Request, error: Exception) -> Response:
    """Answer after a fault of this program; Starlette raises it again, and the server prints it."""
    return refuse(RefusedRequest(500, f"the server has a fault: {type(error).__name__}"))


def refuse(error: RefusedRequest) -> Response:
    return JSONResponse(error.body(), error.status, headers=dict(error.headers or {}))
