"""The block `lora`."""

from typing import Any

import pytest

from jaxneox.config import Settings
from jaxneox.config.schema import LoraConfig
from jaxneox.errors import UserError
from tests.config.cases import SMALLEST


def lora(block: dict[str, Any] | None, **more: Any) -> LoraConfig | None:
    return Settings(SMALLEST | {"lora": block} | more).model(512).lora


def test_what_it_sets() -> None:
    assert lora(None) is None
    found = lora({"rank": 4})
    assert found == LoraConfig(4, 16.0, ("qkv", "out", "up", "down"))
    assert found.scale == 8.0
    gated = lora({"rank": 4, "alpha": 2, "rslora": False}, activation="swiglu")
    assert gated and gated.targets == ("qkv", "out", "up", "gate", "down")
    assert gated.scale == 0.5
    words = ["dense_4h_to_h", "query_key_value", "qkv"]
    named = lora({"rank": 4, "targets": words, "dropout": 0.1})
    assert named and named.targets == ("qkv", "down") and named.dropout == 0.1


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"alpha": 8}, "lora: rank is missing"),
        ({"rank": 0}, "lora.rank: found 0"),
        ({"rank": 4, "targets": ["gate"]}, "lora.targets: found 'gate', expected qkv, out, up"),
        ({"rank": 4, "targets": ["q_proj"]}, "queries, keys and values are one matrix here, qkv"),
        ({"rank": 4, "ranks": 3}, "lora.ranks"),
        ({"rank": 4, "base_dtype": "nf4"}, "nf4 is not supported: no base is quantized here"),
        ({"rank": 4, "base_dtype": "INT8"}, "lora.base_dtype: int8 is not supported: no base"),
    ],
)
def test_what_is_refused(block: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as raised:
        lora(block)
    assert says in str(raised.value)
