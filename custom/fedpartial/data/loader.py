"""A stream of augmented batches for a range of steps, the same for any number of workers."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from fedpartial.data.augment import augment
from fedpartial.data.sampler import AUGMENTATION, Batch, PatchSampler


class StepDataset(Dataset):
    """Map-style: item i is the augmented batch of step ``start + i``."""

    def __init__(self, sampler: PatchSampler, start: int, stop: int):
        self.sampler, self.steps = sampler, range(start, stop)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, item: int) -> Batch:
        step = self.steps[item]
        return augment(self.sampler.batch(step), self.sampler.preset, self.sampler.rng(AUGMENTATION, step))


class BatchStream:
    """Iterates the batches of steps start..stop-1, in order.

    With ``num_workers`` > 0 torch's DataLoader prepares them ahead in other processes. Those are started by a
    fork server, not forked from this process: FLARE's clients run gRPC threads, which do not survive a fork.
    Batches arrive on the CPU, in pinned memory where ``device`` is a CUDA device.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        *,
        start: int,
        stop: int,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
    ):
        self.dataset = StepDataset(sampler, start, stop)
        self.num_workers = min(num_workers, len(self.dataset))
        self.pin_memory = torch.device(device).type == "cuda"

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Batch]:
        if self.num_workers == 0:
            return (self._pinned(self.dataset[item]) for item in range(len(self.dataset)))
        return iter(self._loader())

    def _pinned(self, batch: Batch) -> Batch:
        return batch.pin_memory() if self.pin_memory else batch

    def _loader(self) -> DataLoader:
        """Its own generator, so that worker seeds do not draw from torch's global one."""
        return DataLoader(
            self.dataset,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            multiprocessing_context=multiprocessing.get_context("forkserver"),
            generator=torch.Generator(),
        )
