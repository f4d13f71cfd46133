"""lm-eval's own client against the server gives what the model does."""

import numpy as np
import pytest

from tests.serve.place import Place

pytest.importorskip("tenacity", reason="lm-eval[api] is missing")
completions = pytest.importorskip("lm_eval.models.openai_completions", reason="lm-eval is missing")
PAIRS = [("The old ", "man"), ("x", "yz"), ("a b c", " d e f g")]


@pytest.mark.parametrize("concurrent", [1, 2])
def test_loglikelihood_and_generate_until(here: Place, concurrent: int) -> None:
    from lm_eval.api.instance import Instance

    api = completions.LocalCompletionsAPI(
        base_url=f"http://127.0.0.1:{here.port}/v1/completions",
        tokenizer_backend=None,
        model="speaker",
        max_length=48,
        batch_size=2,
        num_concurrent=concurrent,
    )
    prompts = ["The old man", "x", "a b c"]
    requests = [(prompt, {"until": ["\n\n"], "max_gen_toks": 9}) for prompt in prompts]
    asked = [Instance("generate_until", {}, request, i) for i, request in enumerate(requests)]
    answers = [here.alone(prompt, max_tokens=9).text for prompt in prompts]
    assert api.generate_until(asked) == answers

    api.tokenizer, api.tokenized_requests = object(), True  # what is asked is in tokens
    greedy = here.alone("The", max_tokens=4)
    pairs = [tuple(map(here.model.encode, pair)) for pair in PAIRS]
    pairs.append((greedy.prompt, greedy.tokens))
    said = api._loglikelihood_tokens([(None, *pair) for pair in pairs])
    for (context, answer), (logprob, is_greedy) in zip(pairs, said, strict=True):
        ids = context + answer
        logits = np.asarray(here.model(np.array([ids])), np.float64)[0, len(context) - 1 : -1]
        each = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = each[np.arange(len(answer)), answer].sum()
        assert abs(logprob - expected) < 1e-5 * len(answer)  # float32, sums of 640 terms
        assert is_greedy == (answer == logits[:, :512].argmax(-1).tolist())
    assert [is_greedy for _, is_greedy in said] == [False, False, False, True]
