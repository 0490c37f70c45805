"""Entropy coding of whole numbers: static order-0 ANS, by the library constriction (https://bamler-lab.github.io/constriction).

`paretune.export.reader` decodes it without the library.
"""

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from paretune.compress.coded import frequencies
from paretune.costs.storage import FREQUENCY_BITS


def entropy_coded(symbols: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.int64], bytes]:
    """(present, frequencies, words): the symbols (>= 0) that occur, ascending; how often each comes of 4096 times; the
    coder's 32-bit words, little-endian, whose last one a decoder needs first. One symbol alone has no words.
    """
    counts = np.bincount(symbols)
    present = np.flatnonzero(counts)
    often = frequencies(counts[present])
    if present.size == 1:
        return present, often, b""
    # The probabilities are whole 4096ths, so the library's 24-bit model holds them exactly.
    model = constriction.stream.model.Categorical(often / (1 << FREQUENCY_BITS), perfect=True)
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(np.searchsorted(present, symbols).astype(np.int32), model)
    return present, often, coder.get_compressed().astype("<u4").tobytes()
