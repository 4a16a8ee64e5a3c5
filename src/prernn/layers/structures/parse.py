"""Structures of weight matrices by name: parsing of specification strings.

A structure defines its connectivity for any hidden size ``D`` and any number of inputs ``I``: the ``mask``, the number
of weights per gate, the shape of the compact weight, the product and the dense matrix. Everywhere structures are given
by specification strings: ``full``, ``diagonal``, ``ring``, ``band:21``, ``band:5%``, ``grouped:4``, ``sparse:0.1``,
``paths:8``. Three also exist as ``ring+self``, ``sparse:0.1+self`` and ``paths:8+self``, in which every neuron is also
connected to itself (BandRNN talk; "Structural Sparsity" talk, structurally sparse RNNs).

Those with a regular pattern are in `prernn.layers.structures.regular`, those without one in
`prernn.layers.structures.irregular`. A new structure needs one class with the methods of `Structure`, one line in
`STRUCTURES` and one in `EXAMPLES`.
"""

from collections.abc import Callable
from typing import TypeVar

from prernn.layers.structures.base import Structure
from prernn.layers.structures.irregular import SELF, Paths, SelfConnected, Sparse
from prernn.layers.structures.regular import Band, Diagonal, Full, Grouped, Ring

Number = TypeVar("Number", int, float)


def _parse_full(argument: str) -> Full:
    _require(argument == "", "takes no argument")
    return Full()


def _parse_diagonal(argument: str) -> Diagonal:
    _require(argument == "", "takes no argument")
    return Diagonal()


def _parse_ring(argument: str) -> Ring:
    _require(argument == "", "takes no argument")
    return Ring()


def _parse_band(argument: str) -> Band:
    if argument.endswith("%"):
        return Band(percent=_number(float, argument[:-1], "the share of D must be a percentage, as in 'band:5%'"))
    return Band(_number(int, argument, "the width must be an odd positive integer or a percentage of D"))


def _parse_grouped(argument: str) -> Grouped:
    return Grouped(_number(int, argument, "the number of groups must be a positive integer"))


def _parse_sparse(argument: str) -> Sparse:
    return Sparse(
        _number(
            float, argument, "the density, the share of weights that are kept, must be a number above 0 and at most 1"
        )
    )


def _parse_paths(argument: str) -> Paths:
    return Paths(_number(int, argument, "the number of paths must be a positive integer"))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _number(kind: Callable[[str], Number], text: str, rule: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(rule) from None


STRUCTURES: dict[str, Callable[[str], Structure]] = {
    "full": _parse_full,
    "diagonal": _parse_diagonal,
    "ring": _parse_ring,
    "band": _parse_band,
    "grouped": _parse_grouped,
    "sparse": _parse_sparse,
    "paths": _parse_paths,
}
"""The function that parses the argument after each word of a specification."""


EXAMPLES = ("full", "diagonal", "ring", "band:21", "band:5%", "grouped:4", "sparse:0.1", "paths:8")
"""Example specifications, at least one for each word."""


CONNECTED = (Full, Diagonal, Band, Grouped, SelfConnected)
"""Structures in which every neuron is connected to itself."""


def self_connected(structure: Structure) -> Structure:
    """The structure, with self-connections added if it may lack some."""
    return structure if isinstance(structure, CONNECTED) else SelfConnected(structure)


def hidden_structure(spec: str | Structure) -> Structure:
    """The structure of ``W_hh`` that a specification string names; a structure passes through.

    Example:
        >>> import prernn
        >>> band = prernn.hidden_structure("band:3")
        >>> band.mask(4).int()
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 0],
                [0, 1, 1, 1],
                [0, 0, 1, 1]], dtype=torch.int32)
        >>> band.weight_count(4)
        10

    Raises:
        ValueError: an unknown word or an invalid argument; the message names the spec and the rule.
    """
    return _structure("hidden", spec)


def input_structure(spec: str | Structure) -> Structure:
    """The structure of ``W_ih`` that a specification string names: the same as for ``W_hh``, over ``I`` inputs.

    Example:
        >>> from prernn.layers.structures.parse import input_structure
        >>> input_structure("grouped:2").mask(2, 4).int()
        tensor([[1, 1, 0, 0],
                [0, 0, 1, 1]], dtype=torch.int32)
        >>> input_structure("band:3").mask(2, 6).int()
        tensor([[1, 1, 1, 0, 0, 0],
                [0, 0, 0, 1, 1, 1]], dtype=torch.int32)

    Raises:
        ValueError: as in `hidden_structure`.
    """
    return _structure("inputs", spec)


def _structure(name: str, spec: str | Structure) -> Structure:
    if not isinstance(spec, str):
        if not hasattr(spec, "weight_shape"):
            raise ValueError(f"{name}={spec!r}: expected one of {', '.join(EXAMPLES)}")
        return spec
    plain, own = spec.strip().removesuffix(SELF), spec.strip().endswith(SELF)
    word, _, argument = plain.partition(":")
    if word not in STRUCTURES:
        raise ValueError(f"{name}={spec!r}: unknown structure, expected one of {', '.join(EXAMPLES)}")
    try:
        structure = STRUCTURES[word](argument.strip())
    except ValueError as error:
        raise ValueError(f"{name}={spec!r}: {error}") from None
    if own and self_connected(structure) is structure:
        raise ValueError(f"{name}={spec!r}: every neuron of {plain!r} is connected to itself already")
    return self_connected(structure) if own else structure
