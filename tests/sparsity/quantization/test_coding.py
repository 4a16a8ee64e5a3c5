"""Counts as bytes: exact, about as few bits as their entropy, and files that lie are refused."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import prernn
from prernn.sparsity.quantization.coding import coded_bits, pack, unpack
from prernn.sparsity.quantization.counts import bits_of
from prernn.sparsity.quantization.packing import LAYOUT_KEY, PACKED, packed_state, save_quantized
from prernn.sparsity.quantization.quantize import quantization_report, quantize
from prernn.sparsity.quantization.weights import weights_of


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_packing_is_exact(data):
    low = data.draw(st.integers(-300, 300))
    span = data.draw(st.sampled_from([0, 1, 2, 5, 15, 100, 255, 256, 700]))
    values = data.draw(st.lists(st.integers(low, low + span), min_size=1, max_size=200))
    counts = torch.tensor(values * data.draw(st.sampled_from([1, 20])))
    packed, layout = pack(counts)
    assert packed.dtype == torch.uint8
    assert packed.numel() <= -(-len(counts) * bits_of(counts) // 8)
    assert torch.equal(unpack(packed, json.loads(json.dumps(layout)), counts.shape), counts)


@pytest.mark.parametrize("symbols", [2, 3, 7, 16, 17, 40, 200])
def test_frequent_counts_cost_little(symbols):
    """Within 3 % of the entropy and a table of codes, and never below it: the counts are drawn independently."""
    shares = 0.6 ** torch.arange(symbols, dtype=torch.float64)
    shares /= shares.sum()
    counts = torch.multinomial(shares, 200_000, True, generator=torch.Generator().manual_seed(0))
    counts = torch.where(torch.rand(len(counts), generator=torch.Generator().manual_seed(1)) < 0.5, counts, -counts)
    _, numbers = counts.unique(return_counts=True)
    p = numbers.double() / len(counts)
    entropy = float(-(p * p.log2()).sum())
    assert entropy <= coded_bits(counts) < 1.03 * entropy + 0.02


def test_zeros_cost_next_to_nothing():
    counts = torch.zeros(100_000, dtype=torch.int64)
    counts[::1000] = 1
    assert coded_bits(counts) < 0.3  # an eighth of a bit in a byte of eight counts, at least


def test_a_file_in_bits_alone_is_still_read():
    """Layouts as they were before codes."""
    counts = torch.tensor([-3, 0, 0, 1, 4])
    bits = torch.tensor([0b00011011, 0b00011110], dtype=torch.uint8)  # 0 3 3 4 7, lowest bit first
    assert torch.equal(unpack(bits, {"bits": 3, "low": -3, "shape": [5]}, (5,)), counts)


def test_the_report_says_what_a_file_takes():
    torch.manual_seed(0)
    small = quantize(nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 30)), 0.7)
    report = quantization_report(small)
    held = sum(tensor.numel() for name, tensor in packed_state(small)[0].items() if name.endswith(PACKED))
    assert report.coded * report.weights == pytest.approx(8 * held)
    assert report.coded < report.bits
    assert f"{report.coded:.2f}" in report.table().splitlines()[-1]


LIES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-(2**40), 2**40), max_size=3),
)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_layouts_and_bytes_that_lie_are_refused(data):
    """Either counts of the shape that was asked for, or a ValueError; never another error, nor memory without end."""
    counts = torch.tensor(data.draw(st.lists(st.integers(-9, 9), min_size=1, max_size=60)))
    packed, layout = pack(counts)
    for name in data.draw(st.lists(st.sampled_from(["bits", "symbols", "low", "shape"]), max_size=3)):
        layout[name] = data.draw(LIES)
    for name in data.draw(st.lists(st.sampled_from(sorted(layout)), max_size=1)):
        del layout[name]
    raw = bytearray(packed.numpy().tobytes())
    for place in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=3)):
        raw[place : place + 1] = data.draw(st.binary(max_size=3))
    forged = torch.tensor(list(raw), dtype=torch.uint8)
    try:
        found = unpack(forged, layout, tuple(counts.shape))
    except ValueError:
        return
    assert found.shape == counts.shape
    assert found.dtype == torch.int64


def test_a_small_file_does_not_become_a_large_one():
    """A shape of a million million counts of no bits, and codes that go on without end."""
    with pytest.raises(ValueError, match="shape"):
        unpack(torch.empty(0, dtype=torch.uint8), {"bits": 0, "low": 1, "shape": [10**12]}, (5,))
    packed, layout = pack(torch.zeros(10**6, dtype=torch.int64).index_fill(0, torch.tensor([3]), 1))
    with pytest.raises(ValueError, match="those of others"):
        unpack(packed, {**layout, "shape": [5]}, (5,))


@pytest.mark.parametrize("lie", ["layouts", "shape", "bytes", "scale", "absent", "json", "name"])
def test_files_that_lie_are_named(lie, tmp_path):
    torch.manual_seed(0)
    small = quantize(nn.Linear(60, 50), 1.0)
    state, layouts = packed_state(small)
    text = None
    if lie == "layouts":
        text = json.dumps([layouts])
    elif lie == "shape":
        layouts["weight"]["shape"] = [50, 61]
    elif lie == "bytes":
        state["weight" + PACKED] = state["weight" + PACKED][:-9].clone()
    elif lie == "scale":
        state["weight_scale"] = torch.ones(3)
    elif lie == "absent":
        del state["weight_scale"]
    elif lie == "json":
        text = "{"
    else:
        layouts["other"] = layouts.pop("weight")
    path = tmp_path / "q.safetensors"
    save_file(state, path, metadata={LAYOUT_KEY: json.dumps(layouts) if text is None else text})
    layer = nn.Linear(60, 50)
    with pytest.raises(ValueError, match=r"q\.safetensors: "):
        prernn.load_quantized(layer, path)


def test_zeros_make_a_small_file(tmp_path):
    torch.manual_seed(0)
    small = quantize(nn.Linear(400, 400), 0.3)
    (weight,) = weights_of(small)
    shares = weight.counts.flatten().unique(return_counts=True)[1].double() / weight.counts.numel()
    entropy = float(-(shares * shares.log2()).sum())
    size = 8 * save_quantized(small, tmp_path / "q.safetensors").stat().st_size
    assert size < 160_000 * (entropy + 0.05) + 8 * 2500  # bias, names
