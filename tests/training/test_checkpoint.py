"""A site's state on disk: complete or not there, two rounds of it, and nothing that could run code."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file

from fedpartial.training import checkpoint
from fedpartial.training.checkpoint import SiteState, load_state_before, read_tensors, save_state, write_tensors


def state(number: int) -> SiteState:
    tensors = {"a.weight": torch.full((2, 3), float(number)), "b.bias": torch.arange(4) + number}
    return SiteState(tensors=tensors, values={"round": number, "scaler": {"scale": 2.0**number}})


def assert_is(found: SiteState | None, number: int) -> None:
    assert found is not None
    assert found.values == state(number).values
    assert {n: t.tolist() for n, t in found.tensors.items()} == {
        n: t.tolist() for n, t in state(number).tensors.items()
    }


def test_a_site_that_starts_has_no_state(tmp_path):
    assert load_state_before(tmp_path / "nowhere", 0) is None
    assert load_state_before(tmp_path, 5) is None


def test_the_latest_earlier_round_is_read(tmp_path):
    for number in range(3):
        save_state(tmp_path, number, state(number))
    assert_is(load_state_before(tmp_path, 3), 2)
    assert_is(load_state_before(tmp_path, 2), 1)
    assert_is(load_state_before(tmp_path, 9), 2)


def test_a_rounds_own_state_is_not_its_start(tmp_path):
    save_state(tmp_path, 0, state(0))
    assert load_state_before(tmp_path, 0) is None


def test_round_ten_comes_after_round_nine(tmp_path):
    for number in range(8, 13):
        save_state(tmp_path, number, state(number))
        assert_is(load_state_before(tmp_path, number + 1), number)


def test_two_rounds_are_kept_and_only_safetensors(tmp_path):
    for number in range(5):
        save_state(tmp_path / "state", number, state(number))
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["after_round_00003.safetensors", "after_round_00004.safetensors"]
    for name in names:
        assert set(load_file(tmp_path / "state" / name)) == {"a.weight", "b.bias"}


def test_a_state_without_tensors_is_a_state(tmp_path):
    save_state(tmp_path, 0, SiteState(tensors={}, values={"round": 0}))
    found = load_state_before(tmp_path, 1)
    assert (found.tensors, found.values) == ({}, {"round": 0})


def test_any_layout_in_memory_can_be_written(tmp_path):
    tensor = torch.arange(24.0).reshape(1, 2, 3, 2, 2).to(memory_format=torch.channels_last_3d).requires_grad_()
    write_tensors(tmp_path / "x.safetensors", {"t": tensor, "u": tensor[:, 0].transpose(1, 2)}, {})
    found, _ = read_tensors(tmp_path / "x.safetensors")
    assert torch.equal(found["t"], tensor)
    assert torch.equal(found["u"], tensor[:, 0].transpose(1, 2))


def test_metadata_and_types_come_back(tmp_path):
    tensors = {"half": torch.ones(2, dtype=torch.float16), "count": torch.tensor(7), "flag": torch.tensor([True])}
    write_tensors(tmp_path / "x.safetensors", tensors, {"who": "somebody"})
    found, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"who": "somebody"}
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in tensors.items()}


def crash_before_rename(*_):
    raise KeyboardInterrupt


def crash_in_the_middle(tensors, path, metadata):
    path.write_bytes(b"\x10\0\0\0")
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "crash"),
    [(os, "replace", crash_before_rename), (checkpoint, "save_file", crash_in_the_middle)],
    ids=["before the rename", "in the middle of writing"],
)
@pytest.mark.parametrize("writes", ["the next round", "the same round again"])
def test_a_crash_leaves_the_old_state_readable(tmp_path, monkeypatch, owner, name, crash, writes):
    save_state(tmp_path, 0, state(0))
    save_state(tmp_path, 1, state(1))
    number = 2 if writes == "the next round" else 1
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crash)
        with pytest.raises((KeyboardInterrupt, OSError)):
            save_state(tmp_path, number, state(77))
    assert_is(load_state_before(tmp_path, 5), 1)
    assert_is(load_state_before(tmp_path, 1), 0)
    save_state(tmp_path, number, state(number))
    assert_is(load_state_before(tmp_path, number + 1), number)


def test_a_damaged_state_is_not_taken_for_a_fresh_site(tmp_path):
    """Starting without momentum because a file is damaged would change the run and say nothing."""
    path = save_state(tmp_path, 0, state(0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Exception, match=r"(?i)incomplete|invalid|buffer"):
        load_state_before(tmp_path, 1)


def test_a_round_that_starts_again_drops_the_abandoned_later_states(tmp_path):
    for number in (2, 3, 0):
        save_state(tmp_path, number, SiteState(tensors={"m": torch.full((1,), float(number))}, values={}))
    assert load_state_before(tmp_path, 1).tensors["m"].item() == 0.0
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
