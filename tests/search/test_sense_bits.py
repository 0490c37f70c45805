"""Spaces whose quantizers, encodings or joint settings make no sense are refused, and what the message says works."""

from typing import Any

import pytest
from tiny_task import tiny_task

from paretune.errors import ParetuneError
from paretune.search.bench import Bench, lay_out
from paretune.search.sense import check_sense
from paretune.spaces.language import parse_space

EIGHT = {"match": "*", "weight_bits": 8}
ONE = {"match": "*", "weight_bits": 1}
TERNARY = {"match": "*", "weight_bits": "ternary"}
BLOCKS = {"match": "*", "weight_bits": 8, "pattern": "pe_block", "sparsity": 0.5}
FREE = {"match": "*", "weight_bits": 8, "activation_bits": 8}
DJPQ = {"weights": "djpq", "activations": "djpq"}
JOINT = {"layers": [FREE], "quantize": DJPQ, "joint": {"method": "djpq"}}
SPARSE = {"match": "*", "pattern": "unstructured", "sparsity": 0.5}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return lay_out(tiny_task())


def check(spec: dict[str, Any], bench: Bench) -> None:
    check_sense(parse_space(spec, bench.inventory), bench)


@pytest.mark.parametrize(
    ("wrong", "match", "right"),
    [
        # Names.
        ({"layers": [EIGHT], "quantize": {"weights": "dorefe"}},
         "no quantizer of weights is called 'dorefe'. Did you mean 'dorefa'",
         {"layers": [EIGHT], "quantize": {"weights": "dorefa"}}),
        ({"layers": [EIGHT | {"weight_quantizer": ["lsq", "kmeans"]}]}, "no quantizer of weights is called 'kmeans'",
         {"layers": [EIGHT | {"weight_quantizer": ["lsq", "codebook"]}]}),
        ({"activation_bits": 8, "quantize": {"activations": "pakt"}},
         "no quantizer of activations is called 'pakt'. Did you mean 'pact'",
         {"activation_bits": 8, "quantize": {"activations": "pact"}}),
        ({"layers": [FREE | {"activation_quantizer": "dorefa"}]}, "no quantizer of activations is called 'dorefa'",
         {"layers": [FREE | {"activation_quantizer": "pact"}]}),
        ({"layers": [TERNARY], "quantize": {"ternary": "ternery"}},
         "no quantizer of weights is called 'ternery'. Did you mean 'ternary'",
         {"layers": [TERNARY], "quantize": {"ternary": "prune_ternary"}}),
        ({"quantize": {"weights": "lsqq"}}, "no quantizer of weights is called 'lsqq'", {}),
        # Bits.
        ({"layers": [ONE]}, "'conv1': the quantizer 'lsq' of weights has 2 to 8 bits, got 1; for 1 use dorefa, codebo",
         {"layers": [ONE | {"weight_quantizer": "codebook"}]}),
        ({"layers": [EIGHT | {"weight_bits": [1, 8]}]}, "'lsq' of weights has 2 to 8 bits, got 1",
         {"layers": [EIGHT | {"weight_bits": [1, 8], "weight_quantizer": "dorefa"}]}),
        ({"layers": [EIGHT | {"weight_bits": {"low": 1, "high": 4}}]}, "'lsq' of weights has 2 to 8 bits, got 1",
         {"layers": [EIGHT | {"weight_bits": {"low": 2, "high": 4}}]}),
        ({"layers": [EIGHT | {"weight_quantizer": "ternary"}]}, "'ternary' of weights has 2 bits only, got 8; for 8 us",
         {"layers": [EIGHT | {"weight_bits": 2, "weight_quantizer": "ternary"}]}),
        ({"layers": [TERNARY], "quantize": {"ternary": "prune_ternry"}}, "Did you mean 'prune_ternary'",
         {"layers": [TERNARY], "quantize": {"ternary": "lsq"}}),
        ({"activation_bits": 1, "quantize": {"activations": "djpq"}},
         "'djpq' of activations has 2 to 8 bits, got 1; for 1 use lsq, ",
         {"activation_bits": 1, "quantize": {"activations": "lsq"}}),
        # What nobody reads.
        ({"layers": [EIGHT], "quantize": {"threshold": 0.1}}, "quantize.threshold is read by ternary only, which no l",
         {"layers": [TERNARY], "quantize": {"threshold": 0.1}}),
        ({"layers": [EIGHT], "quantize": {"steps": [2, 4]}}, "quantize.steps is read by inq only",
         {"layers": [EIGHT | {"weight_quantizer": "inq"}], "quantize": {"steps": [2, 4]}}),
        ({"layers": [TERNARY], "quantize": {"pull": 0.0}}, "quantize.pull is read by prune_ternary only",
         {"layers": [TERNARY], "quantize": {"pull": 0.0, "ternary": "prune_ternary"}}),
        ({"activation_bits": 8, "quantize": {"decay": 0.01}}, "quantize.decay is read by pact only",
         {"activation_bits": 8, "quantize": {"decay": 0.01, "activations": "pact"}}),
        ({"quantize": {"weights": "mse"}}, "quantize.weights is set, but every layer's weights are float or ternary",
         {"layers": [EIGHT], "quantize": {"weights": "mse"}}),
        ({"layers": [EIGHT | {"weight_quantizer": "lsq"}], "quantize": {"weights": "mse"}}, "quantizer of their own",
         {"layers": [EIGHT], "quantize": {"weights": "mse"}}),
        ({"layers": [EIGHT], "quantize": {"activations": "mse"}}, "quantize.activations is set, but every layer's act",
         {"activation_bits": 8, "quantize": {"activations": "mse"}}),
        ({"layers": [EIGHT], "quantize": {"ternary": "lsq"}}, "quantize.ternary is set, but no layer has the weight_bi",
         {"layers": [TERNARY], "quantize": {"ternary": "lsq"}}),
        ({"layers": [EIGHT], "quantize": {"project": "power_of_two"}}, "project is set, but no layer has bits that",
         {"layers": [EIGHT | {"weight_bits": [2, 3]}], "quantize": {"project": "power_of_two"}}),
        # Joint training.
        ({"layers": [FREE], "joint": {"beta": 2.0}}, "space.joint.beta is read by a joint training only; add space.joi",
         JOINT | {"joint": {"method": "djpq", "beta": 2.0}}),
        ({"layers": [FREE], "joint": {"method": "djpq"}}, "method: djpq learns the bits of layers whose quantizer is d",
         JOINT),
        ({"layers": [{"match": "*", "weight_bits": [32, "ternary"]}],
          "joint": {"method": "djpq"}}, "to djpq, with bits below 32", JOINT),
        ({"layers": [EIGHT, ], "quantize": {"weights": "lsq"}, "joint": {"method": ["none", "djpq"]}},
         "whose quantizer is djpq", {"layers": [EIGHT | {"weight_quantizer": "djpq"}], "joint": {"method": "djpq"}}),
        (JOINT | {"layers": [FREE | {"pattern": "unstructured", "sparsity": 0.5}]},
         "djpq finds channels, not masks; give layers pattern: channel", JOINT),
        (JOINT | {"groups": [{"match": "*", "ratio": 0.5}]}, "djpq decides which channels stay; leave rate and the",
         JOINT | {"groups": [{"match": "*", "ratio": 0.0}]}),
        (JOINT | {"rate": "uniform"}, "leave rate and the groups' ratios out", JOINT | {"rate": "per_layer"}),
        # Encodings.
        ({"layers": [EIGHT | {"encoding": "huffmann"}]},
         r"no encoding \(of layer 'conv1'\) is called 'huffmann'. Did you mean 'huffman'",
         {"layers": [EIGHT | {"encoding": "huffman"}]}),
        ({"layers": [EIGHT | {"encoding": "ternary"}]}, "'conv1' cannot be stored as 'ternary'; what fits it: cheapes",
         {"layers": [EIGHT | {"weight_bits": [2, 8], "encoding": "ternary"}]}),
        ({"layers": [EIGHT | {"encoding": "ternary"}]}, "cannot be stored as 'ternary'",
         {"layers": [TERNARY | {"encoding": "ternary"}]}),
        ({"layers": [{"match": "*", "weight_bits": 32, "encoding": "huffman"}]}, "cannot be stored as 'huffman'",
         {"layers": [EIGHT | {"encoding": "huffman"}]}),
        ({"layers": [{"match": "*", "weight_bits": 32, "encoding": ["dense", "entropy"]}]}, "be stored as 'entropy'",
         {"layers": [EIGHT | {"encoding": ["dense", "entropy"]}]}),
        ({"layers": [EIGHT | {"encoding": "n:m"}]}, "cannot be stored as 'n:m'",
         {"layers": [EIGHT | {"encoding": "n:m", "pattern": ["channel", "2:4"]}]}),
        ({"layers": [BLOCKS | {"encoding": "n:m"}]}, "cannot be stored as 'n:m'; .*structured",
         {"layers": [BLOCKS | {"encoding": "structured"}]}),
        ({"layers": [SPARSE | {"encoding": "structured"}]}, "cannot be stored as 'structured'",
         {"layers": [SPARSE | {"encoding": "bitmap"}]}),
        # Schedules with a penalty, or for one kind of zeros.
        ({"layers": [SPARSE], "mask": {"schedule": "clipped_lasso"}}, "clipped_lasso finds the pattern pe_block, and '",
         {"layers": [BLOCKS], "mask": {"schedule": "clipped_lasso"}}),
        ({"layers": [SPARSE | {"pattern": "2:4", "sparsity": 0.0}], "mask": {"schedule": "group_lasso"}},
         "group_lasso finds the pattern pe_block, and 'conv1' may be '2:4'",
         {"layers": [BLOCKS | {"sparsity": 0.0}], "mask": {"schedule": "group_lasso"}}),
        ({"layers": [BLOCKS], "mask": {"schedule": "normalised"}}, "normalised finds the pattern unstructured",
         {"layers": [SPARSE], "mask": {"schedule": "normalised"}}),
        ({"layers": [BLOCKS], "mask": {"schedule": "cubic", "penalty": {"clip": "rank"}}},
         "space.mask.penalty.clip is read by the schedules clipped_lasso and group_lasso only, the schedule is cubic",
         {"layers": [BLOCKS], "mask": {"schedule": "clipped_lasso", "penalty": {"clip": "rank"}}}),
        ({"mask": {"penalty": {"strength": {"low": 0.1, "high": 1.0}}}}, "mask.penalty.strength is read by the schedul",
         {"layers": [BLOCKS], "mask": {"schedule": "group_lasso", "penalty": {"strength": {"low": 0.1, "high": 1}}}}),
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_its_mend_is_not(
    wrong: dict[str, Any], match: str, right: dict[str, Any], bench: Bench
) -> None:
    with pytest.raises(ParetuneError, match=match) as refused:
        check(wrong, bench)
    assert "\n" not in str(refused.value)
    check(right, bench)


def test_a_joint_training_may_find_two_bits(bench: Bench) -> None:
    """So an encoding for two bits is no mistake, except where the weights stay float."""
    check(JOINT | {"layers": [FREE | {"encoding": "ternary"}]}, bench)
    rows = [{"match": "head", "weight_bits": 32, "encoding": "ternary"}, FREE]
    with pytest.raises(ParetuneError, match="layer 'head' cannot be stored as 'ternary'"):
        check(JOINT | {"layers": rows}, bench)


@pytest.mark.parametrize("bits", [0, 9, 1.5, "two"])
def test_bits_out_of_range_are_refused_where_the_space_is_read(bits: object, bench: Bench) -> None:
    with pytest.raises(ParetuneError, match="bits are whole numbers from 1 to 8, ternary, or 32 for float"):
        check({"layers": [{"match": "*", "weight_bits": bits}]}, bench)
