"""What a piece of code costs in counts that are the same on every machine: torch operations, their bytes, calls.

Kernels are not looked into: an operation reads its arguments and writes its results once, however it is computed, and
memory of its own is not seen. NumPy's memory is seen by ``allocated``, Python's work by ``calls``.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True, kw_only=True)
class Cost:
    """operations: that compute something, views and allocations are none. flops: of convolutions and matrix products.
    moved: bytes of the operations' arguments and results. peak: of all tensors alive at once that were made meanwhile.
    """

    operations: int
    flops: int
    moved: int
    peak: int


class CostCounter(TorchDispatchMode):
    """``with CostCounter() as counter: ...``, then ``counter.cost``; ``counter.by_operation`` says where bytes go."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: Counter[str] = Counter()
        self._operations = self._flops = self._alive = self._peak = 0
        self._known: dict[int, weakref.ref] = {}

    @property
    def cost(self) -> Cost:
        moved = self.by_operation.total()
        return Cost(operations=self._operations, flops=self._flops, moved=moved, peak=self._peak)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = _tensors((args, kwargs or {}))
        self._known_before(given)
        result = operation(*args, **(kwargs or {}))
        made = _tensors(result)
        self._allocate(made)
        if not _is_free(operation):
            self._operations += 1
            if count_flops := flop_registry.get(operation.overloadpacket):
                self._flops += count_flops(*args, **(kwargs or {}), out_val=result)
            self.by_operation[str(operation)] += sum(_bytes(tensor) for tensor in (*given, *made))
        return result

    def _known_before(self, tensors: list[Tensor]) -> None:
        """What comes from outside is not allocated here, whatever is returned of it."""
        for tensor in tensors:
            self._note(tensor.untyped_storage(), 0)

    def _allocate(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            self._note(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        self._peak = max(self._peak, self._alive)

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        """Count a storage once, until it dies."""
        if (key := storage._cdata) in self._known:
            return
        self._alive += size

        def died(_: weakref.ref) -> None:
            self._alive -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, died)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that there are: those that expand repeats are read once."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size if tensor.numel() else 0


def _is_free(operation: torch._ops.OpOverload) -> bool:
    """Views and memory that nothing is written to."""
    return operation.is_view or operation.overloadpacket in (
        torch.ops.aten.detach,
        torch.ops.aten.empty,
        torch.ops.aten.empty_like,
        torch.ops.aten.empty_strided,
        torch.ops.aten._unsafe_view,
    )


def counted(work: Callable[[], object]) -> CostCounter:
    """The counter of one call."""
    gc.collect()
    with CostCounter() as counter:
        work()
    return counter


def allocated(work: Callable[[], object]) -> int:
    """Peak bytes that Python and NumPy allocate in one call, torch not."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def calls(work: Callable[[], object]) -> int:
    """Functions that one call calls, Python's and C's."""
    count = 0

    def profile(frame, event: str, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count
