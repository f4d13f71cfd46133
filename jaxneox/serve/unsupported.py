"""Fields of OpenAI's and vLLM's completions that this server lacks.

Each is taken at the values at which the answer is the same without it, and refused at all others.
The lists are those of openai-python 3.57 (`completions.create`, and what its other calls add to
every request) and of vLLM (vllm/entrypoints/openai/completion/protocol.py, November 2026).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.fields import Fields, shown
from jaxneox.serve.served import Served


class Unsupported(NamedTuple):
    """A field that this server lacks.

    Attributes:
        harmless: tells whether a value changes nothing.
        reason: why other values are refused.
    """

    harmless: Callable[[Any], bool]
    reason: str


def only(*values: Any) -> Callable[[Any], bool]:
    """Make a test for some values; true is no 1 and false no 0, as they are not in JSON."""

    def harmless(value: Any) -> bool:
        return any(
            value == other and isinstance(value, bool) == isinstance(other, bool)
            for other in values
        )

    return harmless


def some_text(value: Any) -> bool:
    return isinstance(value, str)


def some_object(value: Any) -> bool:
    return isinstance(value, dict)


NO_REPETITION = "presence_penalty and frequency_penalty are the penalties here"
NO_BEAMS = "there is no beam search here"
ALL_TOKENS = "answers are drawn from all tokens; logit_bias lowers some"
FREE_FORM = "answers are not held to a format here"
OWN_LOGPROBS = "logprobs has the likeliest tokens"
AS_ASKED = "prompts are not cut; a longer one is refused"
NOT_READ = "expected a string"

BOTH = {
    # OpenAI's
    "user": Unsupported(some_text, NOT_READ),
    "safety_identifier": Unsupported(some_text, NOT_READ),
    "prompt_cache_key": Unsupported(some_text, NOT_READ),
    "metadata": Unsupported(some_object, "expected an object"),
    "store": Unsupported(only(False), "nothing is stored here"),
    "service_tier": Unsupported(only("auto", "default"), "all requests are served alike"),
    "response_format": Unsupported(only({"type": "text"}), FREE_FORM),
    # vLLM's
    "use_beam_search": Unsupported(only(False), NO_BEAMS),
    "length_penalty": Unsupported(only(1), NO_BEAMS),
    "min_p": Unsupported(only(0), "top_p and top_k limit what is drawn"),
    "repetition_penalty": Unsupported(only(1), NO_REPETITION),
    "repetition_detection": Unsupported(only(), "answers end as stop and max_tokens say"),
    "watermarking": Unsupported(only(False), "answers have no watermark here"),
    "include_stop_str_in_output": Unsupported(only(False), "an answer ends before its stop string"),
    "skip_special_tokens": Unsupported(
        only(True), "special tokens have no text here; return_token_ids shows them"
    ),
    "spaces_between_special_tokens": Unsupported(only(True, False), "expected true or false"),
    "truncate_prompt_tokens": Unsupported(only(), AS_ASKED),
    "truncation_side": Unsupported(only("left", "right"), AS_ASKED),
    "allowed_token_ids": Unsupported(only(), ALL_TOKENS),
    "bad_words": Unsupported(only([]), ALL_TOKENS),
    "logprob_token_ids": Unsupported(only(), OWN_LOGPROBS),
    "structured_outputs": Unsupported(only({}), FREE_FORM),
    "priority": Unsupported(only(0), "requests are answered in the order in which they come"),
    "request_id": Unsupported(only(), "the answer's id is made here"),
    "session_id": Unsupported(some_text, NOT_READ),
    "cache_salt": Unsupported(some_text, NOT_READ),
    "return_tokens_as_token_ids": Unsupported(only(False), "return_token_ids has the numbers"),
    "return_mm_kwargs": Unsupported(only(True, False), "expected true or false"),
    "routed_experts_prompt_start": Unsupported(only(0), "experts are not reported here"),
    "kv_transfer_params": Unsupported(only({}), "keys and values stay in this server"),
    "ec_transfer_params": Unsupported(only({}), "there is no encoder here"),
    "vllm_xargs": Unsupported(only({}), "there are no extensions here"),
    "thinking_token_budget": Unsupported(only(-1), "thoughts are not told from text here"),
    "stream_interval": Unsupported(only(1), "each token is sent when it is there"),
    # transformers'
    "num_beams": Unsupported(only(1), NO_BEAMS),
}
"""The fields that neither completions nor chat have."""

COMPLETIONS = BOTH | {
    # OpenAI's for chat
    "max_completion_tokens": Unsupported(only(), "max_tokens is its name here"),
    "suffix": Unsupported(only(""), "the model has no text after the answer to fit it to"),
    "prompt_logprobs": Unsupported(only(), "echo with logprobs has the prompt's"),
    "prompt_embeds": Unsupported(only(), "a prompt is text or tokens"),
    "return_token_offsets": Unsupported(only(False), "logprobs has text_offset"),
}


def check_unsupported(fields: Fields, table: Mapping[str, Unsupported]) -> None:
    """Take what an endpoint lacks.

    Args:
        fields: those of a request.
        table: what is lacking, by name.

    Raises:
        RefusedRequest: a value would change the answer.
    """
    for name, (harmless, reason) in table.items():
        value = fields.take(name)
        if value is not None and not harmless(value):
            raise unsupported(name, value, reason)


def check_special_tokens(fields: Fields, served: Served, *, text: bool) -> None:
    """Take `add_special_tokens` where it changes nothing.

    Args:
        fields: those of a request.
        served: the model.
        text: whether a prompt is text, before which the tokenizer may put tokens.

    Raises:
        RefusedRequest: it would change the prompt.
    """
    given = fields.take("add_special_tokens")
    fixed = text and served.tokenizer is not None and served.tokenizer.encode("")
    if given is not None and not (given is True or (given is False and not fixed)):
        reason = "the tokenizer puts special tokens around each text; give the prompt as tokens"
        if not isinstance(given, bool):
            reason = "expected true or false"
        raise unsupported("add_special_tokens", given, reason)


def unsupported(name: str, value: Any, reason: str) -> RefusedRequest:
    return RefusedRequest(
        400,
        f"{name}: {shown(value)} is not supported: {reason}",
        param=name,
        code="unsupported_parameter",
    )
