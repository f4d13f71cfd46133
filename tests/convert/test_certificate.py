"""The certificate's page and picture, from a small record made by hand."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from convert.proof.page import page
from convert.proof.picture import draw, picture

Record = dict[str, Any]

OFF = "layer 1: off by 1.0e-03 of what it adds, the limit is 1e-11"


def tensor(name: str, layer: int | None = None, **changed: Any) -> Record:
    module = layer + 2 if layer is not None else 0
    return {
        "name": name, "module": module, "layer": layer, "ranks": 2, "shape": [4],
        "dtype": "float32", "leaf": f"ours.{name}", "fate": "put together: each rank has a share",
        "elements": 8, "used": 8, "changed": 0, "same_bits": True, "drift": None, **changed,
    }  # fmt: skip


def drift(between: float) -> Record:
    return {"between": between, "max": between / 2, "rms": between / 4, "of": 0.5}


def end(title: str, relative: float) -> Record:
    return {"title": title, "max_abs": 3 * relative, "relative": relative, "kl": -1e-17,
            "perplexity": 600.0 * (1 + relative)}  # fmt: skip


def record(layers: int = 2, between: float = 0.0) -> Record:
    fate = "folded" if between else "one copy: all ranks have the same"
    tensors = [tensor("word_embeddings.weight")]
    for layer in range(layers):
        norm = {"drift": drift(between), "fate": fate}
        tensors += [tensor("input_layernorm.weight", layer, **norm)]
        bias = {"drift": drift(0.0), "fate": "the sum", "changed": 8, "same_bits": None}
        tensors += [tensor("attention.dense.bias", layer, **bias)]
    names = ["the embedding", *(f"layer {i}" for i in range(layers)), "the unembedding"]
    errors = [{"name": name, "random": 2e-16 * i, "stream": 3e-16 * i} for i, name in
              enumerate(names)]  # fmt: skip
    proof = {
        "same_function": True, "exact_merge_exists": True, "exact_merge_asked": True,
        "failures": [], "text": "the first 128 tokens of Python's argparse.py",
        "elements_compared": 1234, "tolerance": 1e-11, "perplexity_of_source": 600.0,
        "ends": [end("the converted model", 1e-9), end("zeroth partition", 0.1),
                 end("averaged", 0.2), end("NeoX's converter", 0.0)],
        "layers": errors, "program": 4e-7,
    }  # fmt: skip
    return {
        "title": "NeoX to ours", "made": "2026-01-01", "versions": {"jax": "0.10.2"},
        "command": "jaxneox convert from-neox '/a b/run' out/dst --norms mean --config x.yml",
        "source_path": "/a b/run", "destination_path": "out/dst", "source": {"kind": "GPT-NeoX"},
        "warnings": [], "files": [{"name": "a.pt", "size": 1000, "sha256": "abc"}],
        "files_not_read": [], "tensors": tensors, "proof": proof,
    }  # fmt: skip


def failed(failures: list[str], **said: Any) -> Record:
    made = record()
    made["proof"] |= {"same_function": False, "failures": failures, **said}
    return made


def head(text: str) -> str:
    return text.split("![")[0]


def rows(text: str, name: str) -> list[list[str]]:
    """Of all tables, the rows of one tensor or model."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_same_function() -> None:
    said = head(page(record()))
    assert "**The same function.**" in said
    assert "perplexity: source 600.000000, converted 600.000001 (+1.0e-09)" in said
    assert "1,234 numbers" in said and "KL 0.0e+00" in said and "argparse" in said


def test_a_half_precision_is_named_in_the_verdict() -> None:
    made = record()
    made["proof"]["tolerance"] = 8 * 2.0**-7
    text = page(made)
    assert "**The same function, but for rounding to bfloat16.**" in head(text)
    assert "8 roundings (7.8e-03) of bfloat16" in text


def test_a_historic_merge_was_asked_for() -> None:
    text = page(failed([OFF], exact_merge_asked=False))
    assert "You asked for --norms mean; the exact merge (the default) exists" in head(text)
    assert "converted 600.000001" in head(text) and "FAILED" not in text
    assert "none of them was used" not in text


def test_merges_that_nobody_asked_for_are_named() -> None:
    made = record()
    made["proof"]["ends"] = made["proof"]["ends"][:1]
    made["proof"]["older_merges_not_computed"] = ["averaged", "NeoX's converter"]
    text = page(made)
    assert "(averaged, NeoX's converter) were not computed: `--older-merges`" in text
    assert "would have scored" not in text
    assert "not computed" not in page(record())


def test_no_exact_merge_exists() -> None:
    made = failed([OFF], exact_merge_exists=False)
    made["command"] = "jaxneox convert from-neox run dst"
    assert "No single model has these ranks' function; this is the mean, kept" in head(page(made))


@pytest.mark.parametrize("said", [{}, {"exact_merge_asked": False}, {"exact_merge_exists": False}])
def test_a_failure_is_never_told_as_a_cost(said: Record) -> None:
    """Also where a cost was to be expected, if something else is wrong as well."""
    failures = [OFF, "layer 1: layers.mlp.up: 1 of 9 elements differ"]
    text = head(page(failed(failures, **said)))
    assert "FAILED" in text and all(f"- {failure}" in text for failure in failures)


def test_many_failures_are_cut_short_and_counted() -> None:
    text = head(page(failed([f"layers.{i} differs" for i in range(23)])))
    assert "- layers.19 differs\n- and 3 more, in certificate.json" in text


def test_two_that_could_not_be_followed() -> None:
    text = page(failed(["num_layers is 2 there and 3 here"], ends=[], layers=[]))
    assert "- num_layers is 2 there and 3 here" in head(text)
    assert "were not compared" in text


def test_without_drift_there_is_a_sentence_and_no_table() -> None:
    text = page(record())
    assert "No copy differs between ranks (4 tensors of 2 kinds)." in text
    assert "- `input_layernorm.weight`: one copy" in text
    assert "- `attention.dense.bias`: the sum" in text
    assert "largest difference between ranks" not in text


def test_drift_is_the_difference_between_ranks() -> None:
    made = record(between=0.25)
    made["tensors"][1]["drift"] = drift(0.0)
    text = page(made)
    assert "No copy differs" not in text
    row, _ = rows(text, "`input_layernorm.weight`")
    assert row[1:] == ["1 of 2", "2.5e-01", "6.2e-02", "5.0e-01", "folded"]
    assert "These copies do not differ:\n\n- `attention.dense.bias`: the sum" in text


@pytest.mark.parametrize("ranks", [1, 2])
def test_plurals(ranks: int) -> None:
    made = record(layers=1)
    made["tensors"] = [t | {"ranks": ranks, "elements": 1, "used": 1} for t in made["tensors"][1:2]]
    made["proof"]["elements_compared"] = 1
    text = page(made)
    assert ("1 rank, so" in text) == (ranks == 1)
    assert ("(1 tensor of 1 kind)" in text) == (ranks == 2)
    assert "All 1 element of 1 tensor were used" in text and "Of 1 number that" in text


def test_all_layers_of_a_kind_have_one_row() -> None:
    made = record(layers=12)
    made["tensors"][3]["fate"] = "another"
    ((name, *_, said),) = rows(page(made), "`input_layernorm.weight`")
    assert name == "`input_layernorm.weight`"
    assert said == "one copy: all ranks have the same (11 of 12); another (1 of 12)"
    ((*_, changed, bits, said),) = rows(page(made), "`attention.dense.bias`")
    assert (changed, bits, said) == ("96", "numbers changed", "the sum")


def test_what_is_not_used_says_why() -> None:
    made = record()
    made["tensors"].append(
        tensor(
            "attention.rotary_emb.inv_freq", 0, leaf=None, used=0, same_bits=None, fate="a table"
        )
    )
    text = page(made)
    ((_, _, _, _, used, _, bits, said),) = rows(text, "`attention.rotary_emb.inv_freq`")
    assert (used, bits, said) == ("none", "not used", "not used: a table")
    assert "Of 48 elements of 6 tensors, 40 were used" in text


def test_a_sum_of_bits_that_differs_stands_out() -> None:
    made = record()
    made["tensors"][0]["same_bits"] = False
    assert rows(page(made), "`word_embeddings.weight`")[0][6] == "**NO**"


def test_the_merges_of_the_past_are_apart() -> None:
    made = record()
    made["proof"]["ends"].append(end("the source, its angles in float16 as in 2023", 0.01))
    first, second = page(made).split("## The proof")[1].split("### What NeoX's older merges")
    assert "angles in float16" in first and "zeroth" not in first
    assert "angles" not in second and "none of them was used" in second
    assert all(len(rows(part, "**the converted model**")) == 1 for part in (first, second))
    assert second.count("\n- *") == 3


def test_the_limit_says_where_it_comes_from() -> None:
    made = record()
    assert "float64's own rounding" in page(made)
    made["proof"]["tolerance"] = 8 * 2.0**-23
    text = page(made)
    assert "float64's own rounding" not in text and "8 roundings (1.2e-07) of float32" in text
    assert "What a layer adds is its output less its input" in text


def test_without_a_proof_the_page_says_how_to_make_one() -> None:
    made = record()
    del made["proof"]
    text = page(made)
    assert "**Not proved.**" in head(text) and "## The proof" not in text
    assert "jaxneox verify '/a b/run' out/dst --config x.yml" in text
    assert made["command"] in text


def test_nothing_is_an_empty_table() -> None:
    """As of an export: no ranks, no files read."""
    made = record()
    made["files"], made["warnings"] = [], []
    made["tensors"] = [t | {"drift": None} for t in made["tensors"]]
    text = page(made)
    assert "## Files read" not in text and "## How the ranks'" not in text
    lines = text.splitlines()
    assert not any(
        line.startswith("| ---") and not after.startswith("|") for line, after in pairwise(lines)
    )
    made["files_not_read"] = [{"name": "x.pt", "size": 1}]
    assert "## Files read\n\nNot read, because no weight is in them: x.pt." in page(made)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, 12, 44])
@pytest.mark.parametrize("between", [0.0, 1e-3])
def test_the_picture(tmp_path: Path, layers: int, between: float) -> None:
    made = record(layers, between)
    picture(made, tmp_path / "certificate.png")
    pixels = matplotlib.image.imread(tmp_path / "certificate.png")
    assert pixels.shape[0] > 300 and pixels.std() > 0.02
    figure = draw(made)
    figure.canvas.draw()
    assert len(figure.axes) == (4 if between else 2)  # with the colour bar's place
    for axes in figure.axes:
        boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text()]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes)), axes.get_title(loc="left")


def test_zeros_are_marked_and_joined_to_nothing() -> None:
    axes = draw(record()).axes[0]
    low = axes.get_yticks()[0]
    assert axes.get_yticklabels()[0].get_text() == "exactly 0"
    zeros = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [list(line.get_xydata()[0]) for line in zeros] == [[0, low], [0, low]]
    assert low < 2e-16


@pytest.mark.parametrize("between", [0.0, 1e-3])
@pytest.mark.parametrize("what", ["no proof", "not followed", "all zero", "not finite", "no ranks"])
def test_every_record_has_a_picture(tmp_path: Path, what: str, between: float) -> None:
    made = copy.deepcopy(record(between=between))
    if what == "no proof":
        del made["proof"]
    elif what == "not followed":
        made = failed(["other parameters"], ends=[], layers=[]) | {"tensors": made["tensors"]}
    elif what == "no ranks":
        made["tensors"] = [t | {"drift": None, "module": None} for t in made["tensors"]]
    else:
        value = {"all zero": 0.0, "not finite": float("nan")}[what]
        made["proof"]["ends"] = [end("the converted model", value)]
        for layer in made["proof"]["layers"]:
            layer |= {"random": value, "stream": value}
    picture(made, tmp_path / "certificate.png")
    assert matplotlib.image.imread(tmp_path / "certificate.png").std() > 0
    assert page(made)
