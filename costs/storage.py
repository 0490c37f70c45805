"""How many bytes one weight takes in the packed file, by encoding: plain arithmetic over a row of the profile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretune.errors import ImpossiblePlan, pick
from paretune.frozen import top_code
from paretune.plan import FLOAT, Codes
from paretune.profile import Row

CHEAPEST = "cheapest"
MOST_DISTINCT = 256  # numbers in the table of a codebook
FREQUENCY_BITS = 12  # of a symbol in the table of the entropy coder; all frequencies add up to 2^12
BLOCK_BYTES = 32767  # after so many, deflate starts a new Huffman table


@dataclass(frozen=True, kw_only=True, slots=True)
class Formula:
    """Bytes of one encoding, for a row that `fits` it and the facts about its numbers.

    `trained` says that the plan alone does not tell the size: it depends on which numbers come out of training.
    """

    size: Callable[[Row, Codes], int]
    fits: Callable[[Row], bool] = lambda row: True
    trained: bool = False


def stored_bytes(row: Row) -> int:
    """Bytes of a row's weight in the packed file, without its scales and other floats; 0 if it has no weight.

    Without `row.codes` this is an upper bound of what it is with them, because training can only add zeros; a 1-bit
    layer is then taken to have no other zeros than those of its mask. Huffman and entropy coding are told within 16
    bytes + 1 %, all else is exact.

    Raises:
        ImpossiblePlan: the row asks for an encoding that does not fit it.
        UnknownName: an encoding that is in no table.
    """
    if not row.weights:
        return 0
    return ENCODINGS[stored_as(row)].size(row, row.codes or _worst(row))


def stored_as(row: Row) -> str:
    """The name of the encoding of a row's weight: the one it asks for, or that of the fewest bytes, of equal ones the
    first in `ENCODINGS`.

    Raises:
        ImpossiblePlan: the row asks for an encoding that does not fit it.
        UnknownName: an encoding that is in no table.
    """
    if row.encoding != CHEAPEST:
        if not pick(ENCODINGS, row.encoding, "encoding").fits(row):
            raise misfit(row.name, row.encoding, [name for name, formula in ENCODINGS.items() if formula.fits(row)])
        return row.encoding
    known = sizes(row)
    return min(known, key=known.__getitem__)


def sizes(row: Row) -> dict[str, int]:
    """Bytes by encoding, of those that fit the row and whose size is known: without `row.codes` only what the plan
    fixes.
    """
    codes = row.codes or _worst(row)
    known = {name: formula for name, formula in ENCODINGS.items() if row.codes is not None or not formula.trained}
    return {name: formula.size(row, codes) for name, formula in known.items() if formula.fits(row)}


def misfit(layer: str, encoding: str, fitting: list[str]) -> ImpossiblePlan:
    """The error to raise for a layer that cannot be stored in the encoding it asks for."""
    works = ", ".join(fitting)
    return ImpossiblePlan(f"layer '{layer}' cannot be stored as '{encoding}'; what fits it: {CHEAPEST}, {works}")


def value_bits(weight_bits: int) -> int:
    """Bits of a number that is not zero: of ternary codes only the sign is left to say."""
    return 1 if weight_bits <= 2 else weight_bits


def code_bits(weight_bits: int, zeros: bool) -> int:
    """Bits of a number that may be zero only if there are `zeros`: 1-bit codes are -1 and 1, with zeros they take 2."""
    return 2 if weight_bits == 1 and zeros else weight_bits


def has_positions(pattern: str) -> bool:
    """True for a kind of pattern written in numbers, such as "2:4"."""
    return ":" in pattern


def has_blocks(pattern: str) -> bool:
    """True for a kind of pattern that leaves whole blocks of weights."""
    return pattern in ("pe_block", "partition")


def _bytes(bits: int) -> int:
    return -(-bits // 8)


def _dense(row: Row, codes: Codes) -> int:
    return _bytes(row.weights * code_bits(row.weight_bits, codes.nonzeros < row.weights))


def _ternary(row: Row, codes: Codes) -> int:
    return -(-row.weights // 5)


def _bitmap(row: Row, codes: Codes) -> int:
    return _bytes(row.weights) + _bytes(codes.nonzeros * value_bits(row.weight_bits))


def _csr(row: Row, codes: Codes) -> int:
    """Row pointers, columns, values."""
    rows, nonzeros = row.weight_shape[0], codes.nonzeros
    columns = (row.weights // rows - 1).bit_length()
    pointers = _bytes((rows + 1) * nonzeros.bit_length())
    return pointers + _bytes(nonzeros * columns) + _bytes(nonzeros * value_bits(row.weight_bits))


def _relative(row: Row, codes: Codes) -> int:
    return 1 + _bytes(codes.entries * (codes.gap_bits + max(2, row.weight_bits)))


def _codebook(row: Row, codes: Codes) -> int:
    each = 4 if row.weight_bits == FLOAT else 1
    return 1 + each * codes.distinct + _bytes(row.weights * (codes.distinct - 1).bit_length())


def _few(row: Row) -> bool:
    return row.weight_bits < FLOAT or row.codes is None or row.codes.distinct <= MOST_DISTINCT


def _masked(row: Row, codes: Codes) -> int:
    """The pattern's index, then what it leaves."""
    return row.index_bytes + _bytes(row.kept * code_bits(row.weight_bits, codes.nonzeros < row.kept))


def _huffman(row: Row, codes: Codes) -> int:
    return _bytes(codes.huffman_bits)


def _entropy(row: Row, codes: Codes) -> int:
    """A bit per possible symbol, the frequencies of those that occur, the coder's 32-bit words."""
    table = _bytes(2 ** max(2, row.weight_bits)) + _bytes(FREQUENCY_BITS * codes.distinct)
    return table if codes.distinct == 1 else table + 4 * (codes.entropy_bits // 32 + 1)


def _quantized(row: Row) -> bool:
    return row.weight_bits < FLOAT


def _worst(row: Row) -> Codes:
    """Facts that no training can make larger, of a row that the plan tells so much about."""
    gap_bits = min(16, max(1, (row.weights - 1).bit_length()))
    bits = min(8, max(2, row.weight_bits))
    stream = row.weights if bits > 2 else -(-row.weights // 4)  # bytes that Huffman coding is given
    most = MOST_DISTINCT if row.weight_bits == FLOAT else 2 * top_code(row.weight_bits) + 1
    return Codes(
        nonzeros=row.nonzeros,
        distinct=min(most, row.weights),
        entropy_bits=row.weights * bits + row.weights * bits // 64,  # rounded frequencies cost a little
        huffman_bits=8 * (stream + 5 * (1 + stream // BLOCK_BYTES)),  # deflate then stores plain bytes
        gap_bits=gap_bits,
        entries=row.nonzeros + (row.weights >> gap_bits),
    )


# Of equally small ones the first is taken; `paretune.export.encodings` writes and reads them.
ENCODINGS: Mapping[str, Formula] = {
    "dense": Formula(size=_dense),
    "ternary": Formula(size=_ternary, fits=lambda row: row.weight_bits <= 2),
    "bitmap": Formula(size=_bitmap),
    "csr": Formula(size=_csr),
    "relative": Formula(size=_relative, trained=True),
    "codebook": Formula(size=_codebook, fits=_few, trained=True),
    "n:m": Formula(size=_masked, fits=lambda row: has_positions(row.pattern)),
    "structured": Formula(size=_masked, fits=lambda row: has_blocks(row.pattern)),
    "huffman": Formula(size=_huffman, fits=_quantized, trained=True),
    "entropy": Formula(size=_entropy, fits=_quantized, trained=True),
}
