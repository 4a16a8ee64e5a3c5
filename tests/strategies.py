"""Structures and chunks to draw from."""

from hypothesis import strategies as st

from prernn.layers.structures.parse import EXAMPLES, STRUCTURES, hidden_structure

SPECS = [*EXAMPLES, "paths:3", "band:3"]
"""Structures for laws over every combination; a new structure joins through its example."""


def example_specs() -> dict[str, list[str]]:
    """Example specifications of each word in STRUCTURES."""
    return {word: [x for x in SPECS if x.partition(":")[0] == word] for word in STRUCTURES}


def specs(size: int):
    """Strategy: specification strings that make sense for ``size`` neurons, of every word in STRUCTURES."""
    odd = st.integers(0, size - 1).map(lambda n: f"band:{2 * n + 1}")
    share = st.floats(0.5, 100).map(lambda p: f"band:{p:.3g}%")
    drawn = {
        "band": st.one_of(odd, share),
        "grouped": st.sampled_from([g for g in range(1, size + 1) if size % g == 0]).map("grouped:{}".format),
        "sparse": st.floats(0.001, 1).map(lambda p: f"sparse:{p:.3g}"),
        "paths": st.integers(1, size).map("paths:{}".format),
    }
    fits = {word: st.sampled_from(examples).filter(lambda x: fits_size(x, size)) for word, examples in GIVEN.items()}
    return st.sampled_from(list(STRUCTURES)).flatmap(({**fits, **drawn}).__getitem__)


def fits_size(spec: str, size: int) -> bool:
    """Whether the structure makes sense for ``size`` neurons."""
    try:
        hidden_structure(spec).check(size)
    except ValueError:
        return False
    return True


GIVEN = {word: examples for word, examples in example_specs().items() if examples}


def compositions(total: int):
    """Strategy: ways to split ``total`` steps into chunks of at least one step."""
    cuts = st.sets(st.integers(1, total - 1)) if total > 1 else st.just(set())
    return cuts.map(lambda c: [b - a for a, b in zip([0, *sorted(c)], [*sorted(c), total], strict=True)])


def all_compositions(total: int) -> list[list[int]]:
    """Every way to split ``total`` steps into chunks."""
    if total == 0:
        return [[]]
    return [[first, *rest] for first in range(1, total + 1) for rest in all_compositions(total - first)]
