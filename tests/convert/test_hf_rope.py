"""Rope scaling beyond the original length: logits and generated text are those of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

import jaxneox  # noqa: E402
from convert import from_hf  # noqa: E402
from convert.hf.config import config_of, keys_of  # noqa: E402
from convert.hf.families import FAMILIES  # noqa: E402
from convert.oracle import JaxneoxForward, run  # noqa: E402
from convert.readers.hf import HfCheckpoint  # noqa: E402
from jaxneox.config import Settings  # noqa: E402
from jaxneox.loading import LoadedModel  # noqa: E402
from jaxneox.model.positions import Rotary  # noqa: E402
from tests.convert.test_hf import convert, saved_by_transformers  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

ORIGINAL, LONGER, FACTOR = 16, 64, 4.0
SIZES: dict[str, Any] = {"intermediate_size": 36, "initializer_range": 0.15}
LLAMA3 = {"low_freq_factor": 0.5, "high_freq_factor": 2.0}
YARN = {"beta_fast": 4.0, "beta_slow": 0.5}

SCALINGS: dict[str, tuple[str, dict[str, Any], int]] = {
    "linear": ("Llama", {"rope_type": "linear"}, LONGER),
    "linear, part of a head": ("GPTNeoX", {"rope_type": "linear"}, LONGER),
    "dynamic": ("Llama", {"rope_type": "dynamic"}, ORIGINAL),
    "dynamic, part of a head": ("GPTNeoX", {"rope_type": "dynamic"}, ORIGINAL),
    "yarn": ("Qwen3", {"rope_type": "yarn", **YARN}, LONGER),
    "yarn that does not say its length": ("Mistral", {"rope_type": "yarn", **YARN}, ORIGINAL),
    "yarn, edges not rounded": ("Qwen2", {"rope_type": "yarn", **YARN, "truncate": False}, LONGER),
    "yarn with mscale": (
        "Llama",
        {"rope_type": "yarn", **YARN, "mscale": 0.7, "mscale_all_dim": 1.5},
        LONGER,
    ),
    "llama3": ("Llama", {"rope_type": "llama3", **LLAMA3}, LONGER),
}
"""The family, `rope_parameters` and max_position_embeddings."""


class Both:
    """A model of transformers and ours, which was converted from it."""

    def __init__(self, folder: Path, name: str) -> None:
        family, fields, length = SCALINGS[name]
        parameters: dict[str, Any] = {"rope_theta": 100.0, "factor": FACTOR, **fields}
        if fields["rope_type"] in ("yarn", "llama3"):
            parameters["original_max_position_embeddings"] = ORIGINAL
        sizes = SIZES | ({"num_key_value_heads": 2} if family != "GPTNeoX" else {})
        if family == "GPTNeoX":
            parameters["partial_rotary_factor"] = 0.5
        more = {"max_position_embeddings": length, "rope_parameters": parameters}
        if family == "Mistral":
            more["sliding_window"] = None
        self.theirs = saved_by_transformers(folder / "hf", family, **sizes, **more)
        convert(from_hf.main, folder / "hf", folder / "ours")
        self.folder = folder
        self.ours: LoadedModel = jaxneox.load(str(folder / "ours"))

    def their_logits(self, tokens: np.ndarray) -> np.ndarray:
        """As a model that was just loaded: dynamic scaling remembers the longest text."""
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "hf").eval()
        with torch.no_grad():
            return model(torch.tensor(tokens)).logits.numpy()

    def their_answer(self, prompt: list[int], count: int, cache: bool) -> list[int]:
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "hf").eval()
        with torch.no_grad():
            answer = model.generate(
                torch.tensor([prompt]), max_new_tokens=count, do_sample=False, use_cache=cache
            )
        return answer[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=SCALINGS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("rope"), request.param)


@pytest.mark.slow
@pytest.mark.parametrize("length", [9, LONGER - 10])
def test_logits_of_short_and_long_texts(both: Both, length: int) -> None:
    tokens = np.random.default_rng(length).integers(0, 40, (2, length))
    theirs = both.their_logits(tokens)
    # Two float32 forward passes, about ten roundings of 6e-8 in a row; the oracle is float64 but
    # for the angles, whose float32 frequencies are rounded once and not in each of their steps.
    assert relative_l2(np.asarray(both.ours(tokens)), theirs) <= 1e-6
    source = HfCheckpoint(both.folder / "hf")
    assert relative_l2(run(JaxneoxForward(source.model, source.leaf), tokens), theirs) <= 1e-6


@pytest.mark.slow
def test_text_that_grows_beyond_the_original_length(both: Both) -> None:
    prompts = [np.random.default_rng(n).integers(0, 40, n).tolist() for n in (10, 20)]
    answers = both.ours.generate(prompts, max_tokens=30)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == both.their_answer(prompt, 30, cache=True)


@pytest.mark.slow
def test_the_same_without_a_cache(both: Both) -> None:
    if not both.ours.config.model.positions.scaling.grows:
        pytest.skip("the cache changes the function of dynamic scaling alone")
    prompt = np.random.default_rng(3).integers(0, 40, 14).tolist()
    (answer,) = both.ours.generate([prompt], max_tokens=12, recompute=True)
    assert answer.tokens == both.their_answer(prompt, 12, cache=False)
    logits = both.ours(np.array([[*prompt, *answer.tokens[:-1]]]))[0, -1]
    expected = float(logits[answer.tokens[-1]] - np.logaddexp.reduce(np.asarray(logits)))
    assert answer.logprobs[-1] == pytest.approx(expected, abs=5e-6)  # float32 sums in two orders


def test_config_json_keeps_the_scaling(both: Both) -> None:
    """Written from our model and read again, by us and by transformers."""
    model = both.ours.config.model
    family = next(f for f in FAMILIES if f.model_type == both.theirs.config.model_type)
    config = config_of(family, model)
    assert Settings(keys_of(config)).model(vocab_size=None).positions == model.positions
    theirs = type(both.theirs.config).from_dict(dict(config))
    build = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[model.positions.scaling.type]
    for found, expected in zip(build(theirs), build(both.theirs.config), strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


REAL: dict[str, dict[str, Any]] = {
    "Llama 3.1": {
        "rope_theta": 5e5,
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "Qwen 2.5": {
        "rope_theta": 1e6,
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    },
    "linear": {"rope_theta": 1e5, "rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0},
}


@pytest.mark.parametrize("name", REAL)
def test_frequencies_of_real_sizes(name: str) -> None:
    """To the last bit but one: at position 100,000 a bit of a frequency is 6e-3 of an angle."""
    config = transformers.LlamaConfig(max_position_embeddings=32768, rope_parameters=REAL[name])
    positions = Settings(keys_of(config.to_dict())).model(vocab_size=None).positions
    length = 50_000 if positions.scaling.grows else None
    build = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[positions.scaling.type]
    expected, magnitude = build(config, seq_len=None if length is None else torch.tensor(length))
    found = Rotary(positions, 128).of_length(length or 1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2.0**-23, atol=0)
    assert positions.scaling.attention_factor == pytest.approx(magnitude, rel=1e-15)
