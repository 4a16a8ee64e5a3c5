"""Metrics of clip classification."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from prernn.metrics import ClipMetrics


def random_batch(seed, count=6, steps=5, classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, steps, classes, generator=generator)
    label = torch.randint(0, classes, (count,), generator=generator)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    return logits, label, lengths


def measure(*batches):
    metrics = ClipMetrics(3)
    for batch in batches:
        metrics.update(*batch)
    return metrics.compute()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999))
def test_metrics_counted_by_hand(seed):
    logits, label, lengths = random_batch(seed)
    confusion, hits, total = torch.zeros(3, 3, dtype=torch.int64), 0, 0
    for x, y, n in zip(logits, label, lengths, strict=True):
        confusion[y, x[:n].softmax(-1).mean(0).argmax()] += 1
        hits += int((x[:n].argmax(-1) == y).sum())
        total += int(n)
    found = measure((logits, label, lengths))
    assert torch.equal(found["confusion"], confusion)
    assert found["clip_accuracy"] == pytest.approx(confusion.diagonal().sum() / 6)
    assert found["frame_accuracy"] == pytest.approx(hits / total)
    for k in range(3):
        of_class = confusion[k].sum()
        if of_class:
            assert found["class_accuracy"][k] == pytest.approx(confusion[k, k] / of_class)
        else:
            assert found["class_accuracy"][k].isnan()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.integers(0, 3), st.sampled_from([0.0, 99.0, float("nan")]))
def test_padding_changes_nothing(seed, more, filler):
    logits, label, lengths = random_batch(seed)
    padded = F.pad(logits, (0, 0, 0, more))
    padding = torch.arange(padded.shape[1]) >= lengths[:, None]
    padded = padded.masked_fill(padding[..., None], filler)
    assert_same(measure((padded, label, lengths)), measure((logits, label, lengths)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.integers(1, 5))
def test_batches_add_up(seed, at):
    whole = random_batch(seed)
    parts = [tuple(x[:at] for x in whole), tuple(x[at:] for x in whole)]
    empty = tuple(x[:0] for x in whole)
    assert_same(measure(parts[0], empty, parts[1]), measure(whole))


def test_reset_forgets():
    metrics = ClipMetrics(3)
    metrics.update(*random_batch(0))
    metrics.compute()
    metrics.reset()
    metrics.update(*random_batch(1))
    assert_same(metrics.compute(), measure(random_batch(1)))


def test_numbers_of_classes_that_do_not_fit():
    with pytest.raises(ValueError, match="expected at least 2, got 1"):
        ClipMetrics(1)
    with pytest.raises(ValueError, match="expected 4 classes, got 3"):
        ClipMetrics(4).update(*random_batch(0))
