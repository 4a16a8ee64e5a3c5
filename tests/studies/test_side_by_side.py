"""Trainings side by side: in processes or here, on one thread each, given what they share, ended where one fails."""

import os
import time

import pytest
import torch

from prernn.studies.comparison.side_by_side import side_by_side

shared = []


def share(*given):
    shared.append(given)


def train(seed):
    torch.manual_seed(seed)
    return os.getpid(), torch.get_num_threads(), shared[-1], torch.randn(3).tolist()


def fail():
    raise ArithmeticError("diverged")


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_has_one_thread_and_what_is_shared_and_its_own_seed(jobs, monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr("test_side_by_side.shared", [])
    try:
        with side_by_side(jobs, share, ("features", 7)) as pool:
            results = [future.result() for future in [pool.submit(train, seed) for seed in (0, 1, 0)]]
            assert (results[0][0] == os.getpid()) == (jobs == 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(result[1:3] == (1, ("features", 7)) for result in results)
    draws = [torch.randn(3, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (0, 1, 0)]
    assert [result[3] for result in results] == draws


def test_where_one_fails_the_others_do_not_begin():
    begun, rest = [], []

    def run():
        with side_by_side(1) as pool:
            first, _ = pool.submit(fail), pool.submit(time.sleep, 0.5)
            rest.extend(pool.submit(begun.append, number) for number in range(3))
            first.result()

    with pytest.raises(ArithmeticError, match="diverged"):
        run()
    assert begun == []
    assert all(future.cancelled() for future in rest)


def test_no_jobs():
    with pytest.raises(ValueError, match="jobs: expected at least 1, got 0"), side_by_side(0):
        pass
