"""Fields of OpenAI's and vLLM's chat completions that this server lacks.

The lists are those of openai-python 3.57 (`chat.completions.create`) and of vLLM
(vllm/entrypoints/openai/chat_completion/protocol.py, November 2026); what both endpoints lack
stands in `unsupported`.
"""

from jaxneox.serve.unsupported import (
    BOTH,
    FREE_FORM,
    NOT_READ,
    Unsupported,
    only,
    some_object,
    some_text,
)

NO_TOOLS = "models are given no tools here, and answers are not read for calls"
TEXT_ALONE = "the model reads and writes text alone"
BY_TEMPLATE = "the chat template decides; give what it reads as chat_template_kwargs"

CHAT = BOTH | {
    # OpenAI's
    "tools": Unsupported(only([]), NO_TOOLS),
    "tool_choice": Unsupported(only("none", "auto"), NO_TOOLS),
    "parallel_tool_calls": Unsupported(only(True, False), "expected true or false"),
    "functions": Unsupported(only([]), NO_TOOLS),
    "function_call": Unsupported(only("none", "auto"), NO_TOOLS),
    "audio": Unsupported(only(), TEXT_ALONE),
    "modalities": Unsupported(only(["text"]), TEXT_ALONE),
    "prediction": Unsupported(some_object, "expected an object"),
    "reasoning_effort": Unsupported(only("none"), BY_TEMPLATE),
    "verbosity": Unsupported(only("medium"), "the model is not told how much to write"),
    "web_search_options": Unsupported(only(), "nothing is searched for here"),
    "moderation": Unsupported(only(), "answers are not moderated here"),
    "prompt_cache_options": Unsupported(some_object, "expected an object"),
    "prompt_cache_retention": Unsupported(some_text, NOT_READ),
    # vLLM's
    "echo": Unsupported(only(False), "an answer has no conversation before it"),
    "continue_final_message": Unsupported(
        only(False), "each answer is a message of its own; /v1/completions continues a text"
    ),
    "add_special_tokens": Unsupported(only(False), "the chat template writes all special tokens"),
    "documents": Unsupported(only([]), BY_TEMPLATE),
    "chat_template": Unsupported(only(), "the server has one, by --chat-template FILE"),
    "media_io_kwargs": Unsupported(only({}), TEXT_ALONE),
    "mm_processor_kwargs": Unsupported(only({}), TEXT_ALONE),
    "include_reasoning": Unsupported(only(True, False), "expected true or false"),
    "prompt_logprobs": Unsupported(only(), "/v1/completions has the prompt's, with echo"),
    # older clients of vLLM
    "guided_json": Unsupported(only(), FREE_FORM),
    "guided_regex": Unsupported(only(), FREE_FORM),
    "guided_choice": Unsupported(only(), FREE_FORM),
    "guided_grammar": Unsupported(only(), FREE_FORM),
}
