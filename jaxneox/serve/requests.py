"""The parsing of a completion request: OpenAI's fields, checked, in terms of the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxneox.errors import UserError
from jaxneox.infer.stopping import StopConditions
from jaxneox.infer.tasks import Task
from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.fields import Fields, check_characters, many, object_of, shown, wrong
from jaxneox.serve.models import ServedModels
from jaxneox.serve.sampling_fields import samplings
from jaxneox.serve.served import TOPS, Served
from jaxneox.serve.unsupported import (
    COMPLETIONS,
    check_special_tokens,
    check_unsupported,
    unsupported,
)

STOPS = 16
STOP_TOKENS = 32
LONG_PROMPT = 16
"""A prompt with more characters than this for each token of the context is not encoded whole."""


@dataclass(frozen=True)
class Prompt:
    """A prompt; `text` is None if it was given as tokens."""

    text: str | None
    tokens: list[int]


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request for completions.

    Attributes:
        served: the model that answers.
        prompts: the prompts.
        choices: for each prompt as many answers as are made of it, in this order.
        n: how many answers to each prompt are returned: the likeliest, if more are made.
        logprobs: how many of the most likely tokens to return; None for no log-probabilities.
        echo: whether each answer begins with its prompt.
        stream: whether the answer is streamed.
        usage: whether a stream ends with its usage.
        continuous_usage: whether each part of a stream has its usage so far.
        token_ids: whether the tokens are returned as numbers, too.
    """

    served: Served
    prompts: list[Prompt]
    choices: list[Task]
    n: int
    logprobs: int | None
    echo: bool
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool

    def prompt_of(self, index: int) -> Prompt:
        return self.prompts[index * len(self.prompts) // len(self.choices)]


def completion_request(body: bytes, models: ServedModels, most: int) -> CompletionRequest:
    """Parse and check a body.

    Args:
        body: the bytes of a JSON object.
        models: what is served.
        most: how many answers one request may have.

    Raises:
        RefusedRequest: with the field that is wrong.
    """
    fields = Fields(object_of(body), "a completion")
    served = models.named(fields.text("model"))
    prompts = prompts_of(fields.take("prompt"), served, most)
    n = fields.whole("n", 1, 1, most)
    made = fields.whole("best_of", n, n, most)
    if len(prompts) * made > most:
        what = f"n {n}" if made == n else f"best_of {made}"
        raise RefusedRequest(
            400, f"{len(prompts)} prompts x {what}: expected {most} answers at most"
        )
    echo = fields.flag("echo")
    max_tokens = fields.whole("max_tokens", min(16, served.max_tokens), 0, served.max_tokens)
    if not max_tokens and not echo:
        raise wrong("max_tokens", 0, "1 or more, or echo")
    logprobs = fields.whole("logprobs", -1, 0, TOPS)
    scored = echo and (logprobs >= 0 or not max_tokens)
    rooms = [room_of(prompt, max_tokens, served) for prompt in prompts]
    until = stop_conditions(fields, served, max_tokens)
    choices = []
    for number, sampling in enumerate(samplings(fields, served, len(prompts) * made)):
        tokens, room = prompts[number // made].tokens, rooms[number // made]
        choices.append(until.task(tokens, sampling, room, served.tokenizer, scored=scored))
    token_ids = fields.flag("return_token_ids") or served.tokenizer is None
    stream, usage, continuous = streaming(fields)
    if stream and made > n:
        reason = "which answers are the likeliest is known at their end; leave out stream"
        raise unsupported("best_of", made, reason)
    text = any(prompt.text is not None for prompt in prompts)
    check_unsupported(fields, COMPLETIONS)
    check_special_tokens(fields, served, text=text)
    fields.end()
    top_tokens = None if logprobs < 0 else logprobs
    return CompletionRequest(
        served, prompts, choices, n, top_tokens, echo, stream, usage, continuous, token_ids
    )


def prompts_of(given: Any, served: Served, most: int) -> list[Prompt]:
    """Parse `prompt`: a string, strings, tokens, or lists of tokens."""
    expected = "a string, a list of strings, a list of tokens, or a list of lists of tokens"
    if given is None:
        raise RefusedRequest(400, f"prompt: missing, expected {expected}", param="prompt")
    tokens = isinstance(given, list) and all(type(x) is int for x in given)
    listed = [given] if isinstance(given, str) or (tokens and given) else given
    if not isinstance(listed, list) or not listed:
        raise wrong("prompt", given, expected)
    if len(listed) > most:
        raise many("prompt", len(listed), most)
    return [prompt_of(one, served, expected) for one in listed]


def prompt_of(given: Any, served: Served, expected: str) -> Prompt:
    if isinstance(given, str):
        check_characters(given, "prompt")
        try:
            prompt = Prompt(given, encoded(given, served, served.encode))
        except UserError as error:
            raise RefusedRequest(400, f"prompt: {error}", param="prompt") from error
    elif isinstance(given, list) and given and all(type(x) is int for x in given):
        prompt = Prompt(None, given)
    else:
        raise wrong("prompt", given, expected)
    if not prompt.tokens:
        raise RefusedRequest(400, "prompt: it has no tokens", param="prompt")
    outside = [token for token in prompt.tokens if not 0 <= token < served.vocabulary]
    if outside:
        raise RefusedRequest(
            400,
            f"prompt: token {shown(outside[0])} is outside the vocabulary of {served.vocabulary:,}",
            param="prompt",
        )
    return prompt


def encoded(
    text: str, served: Served, encode: Callable[[str], list[int]], param: str = "prompt"
) -> list[int]:
    """Encode a text; the beginning of one that is far too long is enough to refuse it.

    Args:
        text: the prompt.
        served: the model.
        encode: makes tokens of a text.
        param: the field that the text comes from.

    Raises:
        RefusedRequest: it is far too long.
        UserError: it cannot be encoded.
    """
    part = text[: LONG_PROMPT * served.context]
    tokens = encode(part)
    if len(part) < len(text) and len(tokens) > 2 * served.context:
        raise RefusedRequest(
            400,
            f"the model's context is {served.context:,} tokens; the prompt has {len(text):,} "
            f"characters, and the first {len(part):,} have {len(tokens):,} tokens",
            param=param,
            code="context_length_exceeded",
        )
    return tokens if len(part) == len(text) else encode(text)


def room_of(prompt: Prompt, max_tokens: int, served: Served, param: str = "prompt") -> int:
    """Return how many tokens may follow: fewer than asked for if the context ends before."""
    room = served.context - len(prompt.tokens)
    if room < bool(max_tokens):
        raise RefusedRequest(
            400,
            f"the model's context is {served.context:,} tokens; the prompt has "
            f"{len(prompt.tokens):,}" + (", and its answer needs one" if not room else ""),
            param=param,
            code="context_length_exceeded",
        )
    return min(max_tokens, room)


def stop_conditions(
    fields: Fields, served: Served, max_tokens: int, ends: Sequence[int] = ()
) -> StopConditions:
    """Take what ends an answer.

    Args:
        fields: those of a request.
        served: the model.
        max_tokens: how long the answer may be.
        ends: tokens that end it besides the tokenizer's, unless `ignore_eos` is set.

    Raises:
        RefusedRequest: with the field that is wrong.
    """
    stop = fields.texts("stop", STOPS)
    if stop and served.tokenizer is None:
        raise RefusedRequest(
            400, "stop: the checkpoint has no tokenizer, which strings need", param="stop"
        )
    stop_token_ids = fields.tokens("stop_token_ids", STOP_TOKENS, served.vocabulary)
    ignore_eos = fields.flag("ignore_eos")
    least = fields.whole("min_tokens", 0, 0, max_tokens)
    more = [] if ignore_eos else [end for end in ends if end < served.vocabulary]
    until = StopConditions(stop, [*stop_token_ids, *more], ignore_eos, least)
    try:
        until.check(served.tokenizer, served.vocabulary)
    except UserError as error:
        raise RefusedRequest(400, str(error)) from error
    return until


def streaming(fields: Fields) -> tuple[bool, bool, bool]:
    """Tell whether the answer is streamed, and whether its usage comes at the end, and always."""
    stream, options = fields.flag("stream"), fields.take("stream_options")
    if options is None:
        return stream, False, False
    if not isinstance(options, dict):
        raise wrong("stream_options", options, "an object")
    inside = Fields(options, "stream_options")
    continuous = inside.flag("continuous_usage_stats")
    usage = inside.flag("include_usage", default=continuous)
    if inside.flag("include_obfuscation"):
        reason = "nothing is added to hide how long a part is; leave it out"
        raise unsupported("include_obfuscation", True, reason)
    inside.end()
    if (usage or continuous) and not stream:
        raise wrong("stream_options", options, "stream: true beside it")
    return stream, usage, continuous
