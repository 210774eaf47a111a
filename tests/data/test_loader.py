"""The stream gives the batches of its steps, in order, whoever prepares them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_hospital import store_arrays

from fedpartial.data.loader import BatchStream
from fedpartial.data.sampler import PatchSampler


@pytest.fixture
def sampler(tmp_path, preset) -> PatchSampler:
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=(12, 12, 12)), rng.integers(0, 2, (12, 12, 12)).astype(np.uint8)) for _ in range(3)]
    cases = [store_arrays(tmp_path / str(i), *pair, ("liver",), i) for i, pair in enumerate(arrays)]
    return PatchSampler(cases, preset, seed=0, site="a")


def assert_same(first, second) -> None:
    for name in ("image", "label", "labelled"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_the_number_of_workers_changes_neither_batches_nor_torchs_generator(sampler):
    state = torch.get_rng_state()
    here = list(BatchStream(sampler, start=0, stop=5))
    with_workers = list(BatchStream(sampler, start=0, stop=5, num_workers=2))
    assert len(here) == len(with_workers) == 5
    for first, second in zip(here, with_workers, strict=True):
        assert_same(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_that_starts_later_goes_on_exactly(sampler):
    whole = list(BatchStream(sampler, start=0, stop=6))
    rest = BatchStream(PatchSampler(sampler.cases, sampler.preset, seed=0, site="a"), start=4, stop=6)
    assert len(rest) == 2
    for first, second in zip(whole[4:], rest, strict=True):
        assert_same(first, second)


def test_batches_are_augmented(sampler):
    (batch,) = BatchStream(sampler, start=3, stop=4)
    assert not torch.equal(batch.image, sampler.batch(3).image)
    sampler.preset = replace(sampler.preset, augmentation="none")
    (batch,) = BatchStream(sampler, start=3, stop=4)
    assert torch.equal(batch.image, sampler.batch(3).image)


def test_an_empty_range_needs_no_worker(sampler):
    assert list(BatchStream(sampler, start=4, stop=4, num_workers=2)) == []


@pytest.mark.gpu
def test_batches_for_a_gpu_are_pinned(sampler):
    for num_workers in (0, 1):
        (batch,) = BatchStream(sampler, start=0, stop=1, num_workers=num_workers, device="cuda")
        assert batch.image.is_pinned()
        assert batch.to("cuda", non_blocking=True).image.is_cuda
