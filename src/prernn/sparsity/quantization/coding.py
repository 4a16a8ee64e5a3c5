"""Counts as bytes: with a fixed number of bits for their range, or Huffman codes, whichever is smaller.

Small counts are the most frequent ones, above all 0, so a code with short words for frequent counts takes fewer bits
than their range: close to the entropy ``H = -sum_k p_k log2 p_k`` of the counts. zlib's Huffman coding without its
search for repetitions does this for bytes. Its words have at least one bit, so to waste nothing, a byte holds as many
counts as possible: ``g`` of them are the digits of one number in base ``k``, for ``k`` different counts and
``k**g <= 256``.
"""

import math
import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prernn.sparsity.quantization.counts import bits_of

CHUNK = 2**20
"""Number of counts processed at a time, a multiple of 8, because each is expanded to one number per bit."""
SYMBOLS = 256
"""Number of different bytes."""
LARGEST = 2**53
"""The largest count that a layer may have."""


def pack(counts: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Packs counts into bytes, and says how to read them.

    Returns:
        Bytes uint8 ``(N,)``, and a layout: the lowest count, the shape, and either ``bits`` per count or the number
        ``symbols`` of different counts in the Huffman code.
    """
    low, shape = int(counts.min()), list(counts.shape)
    symbols = int(counts.max()) - low + 1
    plain = -(-counts.numel() * bits_of(counts) // 8)
    if 1 < symbols <= SYMBOLS:
        coded = _coded((counts.flatten().long() - low).numpy(), symbols)
        if len(coded) < plain:
            return torch.from_numpy(np.frombuffer(coded, np.uint8).copy()), {
                "symbols": symbols,
                "low": low,
                "shape": shape,
            }
    return _in_bits(counts, low), {"bits": bits_of(counts), "low": low, "shape": shape}


def unpack(packed: Tensor, layout: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """Unpacks counts that `pack` packed, int64.

    Args:
        packed: bytes.
        layout: the layout that `pack` returned with them.
        shape: the expected shape, so that untrusted data can't determine how much is read.

    Raises:
        ValueError: a layout that does not fit the bytes or the shape.
    """
    low, size = (
        (layout.get("low"), layout.get("bits", layout.get("symbols"))) if isinstance(layout, dict) else (None, 0)
    )
    if type(low) is not int or type(size) is not int or not -LARGEST <= low <= LARGEST:
        raise ValueError(f"expected low, shape, and bits or symbols as integers, got {layout}")
    if layout.get("shape") != list(shape):
        raise ValueError(f"expected counts of shape {list(shape)}, got {layout.get('shape')}")
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise ValueError(f"expected bytes (N,), got {packed.dtype} {tuple(packed.shape)}")
    read = _of_bits if "bits" in layout else _of_codes
    return read(packed, size, math.prod(shape)).add_(low).view(shape)


def coded_bits(counts: Tensor) -> float:
    """Bits per count in a file."""
    return 8 * pack(counts)[0].numel() / counts.numel()


def _together(symbols: int) -> int:
    """How many counts fit in a byte if there are ``symbols`` different ones."""
    together = 1
    while symbols ** (together + 1) <= SYMBOLS:
        together += 1
    return together


def _coded(raised: np.ndarray, symbols: int) -> bytes:
    together = _together(symbols)
    digits = np.pad(raised, (0, -len(raised) % together)).reshape(-1, together)
    held = (digits * symbols ** np.arange(together)).sum(1).astype(np.uint8)
    code = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return code.compress(held.tobytes()) + code.flush()


def _of_codes(packed: Tensor, symbols: int, count: int) -> Tensor:
    if not 1 < symbols <= SYMBOLS:
        raise ValueError(f"expected 2 to {SYMBOLS} symbols, got {symbols}")
    together = _together(symbols)
    size = -(-count // together)
    code = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        held = code.decompress(packed.numpy().tobytes(), size + 1)  # never more, whatever the bytes contain
    except zlib.error as error:
        raise ValueError(f"expected Huffman codes of {count} counts, got other bytes ({error})") from None
    if len(held) != size or not code.eof or code.unused_data:
        raise ValueError(f"expected Huffman codes of {count} counts, got those of others")
    numbers = np.frombuffer(held, np.uint8).astype(np.int64)
    if numbers.size and int(numbers.max()) >= symbols**together:
        raise ValueError(f"expected counts below {symbols} above the lowest, got others")
    digits = numbers[:, None] // symbols ** np.arange(together) % symbols
    return torch.from_numpy(digits.reshape(-1)[:count].copy())


def _in_bits(counts: Tensor, low: int) -> Tensor:
    bits, parts = bits_of(counts), []
    for part in counts.flatten().split(CHUNK):
        raised = (part.long() - low).numpy()  # 0 .. 2**bits - 1
        parts.append(np.packbits(((raised[:, None] >> np.arange(bits)) & 1).astype(np.uint8)))
    return torch.from_numpy(np.concatenate(parts))


def _of_bits(packed: Tensor, bits: int, count: int) -> Tensor:
    size = -(-count * bits // 8)
    if not 0 <= bits <= 62 or packed.numel() != size:
        raise ValueError(f"expected {size} bytes for {count} counts of {bits} bits, got {packed.numel()}")
    counts = torch.empty(count, dtype=torch.int64)
    for begin in range(0, count, CHUNK):
        part = counts[begin : begin + CHUNK]
        held = packed[begin * bits // 8 :].numpy()
        digits = np.unpackbits(held[: -(-len(part) * bits // 8)], count=len(part) * bits).reshape(len(part), bits)
        part.copy_(torch.from_numpy((digits.astype(np.int64) << np.arange(bits)).sum(1)))
    return counts
