"""The parsing of a chat request: a conversation becomes the one prompt of a completion."""

from typing import Any

from jaxneox.errors import UserError
from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.fields import Fields, object_of, wrong
from jaxneox.serve.messages import messages_of
from jaxneox.serve.models import ServedModels
from jaxneox.serve.requests import (
    CompletionRequest,
    Prompt,
    encoded,
    room_of,
    stop_conditions,
    streaming,
)
from jaxneox.serve.sampling_fields import samplings
from jaxneox.serve.served import CHAT_TOPS, Served
from jaxneox.serve.unsupported import check_unsupported
from jaxneox.serve.unsupported_chat import CHAT
from jaxneox.templates.prompts import GIVEN, ChatPrompts


def chat_request(body: bytes, models: ServedModels, most: int) -> CompletionRequest:
    """Parse and check a body.

    Args:
        body: the bytes of a JSON object.
        models: what is served, with their chat templates.
        most: how many answers one request may have.

    Raises:
        RefusedRequest: with the field that is wrong; or there is no chat template.
    """
    fields = Fields(object_of(body), "a chat completion")
    served = models.named(fields.text("model"))
    if served.chat is None:
        raise RefusedRequest(400, served.no_chat, code="no_chat_template")
    messages, values = messages_of(fields.take("messages")), template_values(fields)
    answer = fields.flag("add_generation_prompt", default=True)
    n = fields.whole("n", 1, 1, most)
    max_tokens = length_of(fields, served)
    logprobs = likeliest(fields)
    until = stop_conditions(fields, served, max_tokens, served.chat.ends)
    each = samplings(fields, served, n)
    token_ids = fields.flag("return_token_ids")
    stream, usage, continuous = streaming(fields)
    check_unsupported(fields, CHAT)
    fields.end()
    prompt = prompt_of(served, served.chat, messages, values, answer)
    room = room_of(prompt, max_tokens, served, "messages")
    choices = [until.task(prompt.tokens, one, room, served.tokenizer) for one in each]
    return CompletionRequest(
        served, [prompt], choices, n, logprobs, False, stream, usage, continuous, token_ids
    )


def length_of(fields: Fields, served: Served) -> int:
    """Take how long an answer may be, by OpenAI's newer name or by its older one."""
    newer, older = "max_completion_tokens", "max_tokens"
    given = [fields.whole(name, 0, 1, served.max_tokens) for name in (newer, older)]
    if all(given) and given[0] != given[1]:
        raise wrong(older, given[1], f"{given[0]} as {newer}, its newer name; give one of them")
    return max(given) or served.max_tokens


def likeliest(fields: Fields) -> int | None:
    """Take how many of the most likely tokens to return; None for no log-probabilities."""
    wanted = fields.flag("logprobs")
    tops = fields.whole("top_logprobs", 0, 0, CHAT_TOPS)
    if tops and not wanted:
        raise wrong("top_logprobs", tops, "logprobs: true beside it")
    return tops if wanted else None


def template_values(fields: Fields) -> dict[str, Any]:
    """Take vLLM's `chat_template_kwargs`, what a template may ask for by name."""
    given = fields.take("chat_template_kwargs")
    values = {} if given is None else given
    if not isinstance(values, dict) or values.keys() & GIVEN:
        others = ", ".join(sorted(GIVEN))
        raise wrong("chat_template_kwargs", given, f"an object with other names than {others}")
    return values


def prompt_of(
    served: Served,
    chat: ChatPrompts,
    messages: list[dict[str, str]],
    values: dict[str, Any],
    answer: bool,
) -> Prompt:
    try:
        text = chat.render(messages, values, answer=answer)
        tokens = encoded(text, served, chat.encode, "messages")
    except UserError as error:
        raise RefusedRequest(400, f"messages: {error}", param="messages") from error
    if not tokens:
        raise RefusedRequest(
            400, "messages: the chat template makes no text of them", param="messages"
        )
    outside = [token for token in tokens if token >= served.vocabulary]
    if outside:
        raise RefusedRequest(
            400,
            f"messages: the tokenizer has token {outside[0]}, which is outside the model's "
            f"vocabulary of {served.vocabulary:,}",
            param="messages",
        )
    return Prompt(text, tokens)
