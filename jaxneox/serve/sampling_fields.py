"""The fields that say how an answer is drawn, with OpenAI's defaults."""

import secrets
from typing import Any

from jaxneox.infer.penalties import BIAS, MOST_BIASES, PENALTY, Biases
from jaxneox.infer.sampling import Sampling
from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.fields import Fields, many, shown, wrong
from jaxneox.serve.served import Served

MIN_TEMPERATURE = 1e-5
"""Below this temperature an answer is greedy, as in vLLM: the engine computes in float32."""


def samplings(fields: Fields, served: Served, count: int) -> list[Sampling]:
    """Make the sampling of each choice.

    A temperature of 0 is greedy, whatever the limits; so is a top_p of 0.
    """
    temperature = fields.number("temperature", 1.0, 0, 2)
    top_p = fields.number("top_p", 1.0, 0, 1)
    top_k = fields.whole("top_k", 0, -1, 2**31 - 1)
    seed = fields.whole("seed", secrets.randbits(32), -(2**63), 2**63 - 1)
    seeds = [(seed + number) % 2**32 for number in range(count)]
    changed: dict[str, Any] = {
        name: fields.number(name, 0.0, -PENALTY, PENALTY)
        for name in ("presence_penalty", "frequency_penalty")
    }
    changed["logit_bias"] = biases(fields.take("logit_bias"), served.vocabulary)
    if temperature < MIN_TEMPERATURE or top_p == 0:
        return [Sampling(seed=seed, **changed) for seed in seeds]
    limit = top_p if top_p < 1 else 0.0
    return [Sampling(temperature, limit, max(top_k, 0), seed, **changed) for seed in seeds]


def biases(given: Any, vocabulary: int) -> Biases:
    """Parse `logit_bias`: numbers to add to the logits of tokens, by the tokens' numbers."""
    name = "logit_bias"
    if given is None:
        return ()
    if not isinstance(given, dict):
        raise wrong(name, given, 'an object such as {"50256": -100}')
    if len(given) > MOST_BIASES:
        raise many(name, len(given), MOST_BIASES)
    for token, bias in given.items():
        short = token.isascii() and token.isdecimal() and len(token) < 10
        if not short or token != str(int(token)) or int(token) >= vocabulary:
            raise wrong(name, token, f"the number of a token, 0 to {vocabulary - 1:,}, in quotes")
        if type(bias) not in (int, float) or not -BIAS <= bias <= BIAS:
            raise RefusedRequest(
                400,
                f"{name}: {shown(bias)} for token {token}, expected a number from -{BIAS:g} to "
                f"{BIAS:g}",
                param=name,
            )
    return tuple((int(token), float(bias)) for token, bias in given.items() if bias)
