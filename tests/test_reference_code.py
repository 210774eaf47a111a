"""benchmarks/reference_code.py: which folder is the reference, which version, and what "cuda:0" means there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fedpartial
from fedpartial.errors import ConfigError

SCRIPT = Path(fedpartial.__file__).parents[2] / "benchmarks" / "reference_code.py"


@pytest.fixture(scope="module")
def reference_code():
    spec = importlib.util.spec_from_file_location("reference_code", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def checkout(tmp_path):
    """A folder with the files that tell the reference, of other content."""
    for name in ("src/trainer/condist.py", "src/losses.py", "jobs/condist/liver/config/config_task.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return tmp_path


def test_another_folder_is_refused_with_the_file_it_lacks(reference_code, checkout):
    (checkout / "src/losses.py").unlink()
    with pytest.raises(ConfigError, match=r"has no src/losses\.py.*NVFlare"):
        reference_code.find_reference(checkout)


def test_a_folder_is_named_as_git_names_its_tree(reference_code, checkout):
    (checkout / "src/trainer.py").write_text("after trainer/ in the order of names, before it in git's")
    (checkout / "src/trainer/__pycache__").mkdir()
    (checkout / "src/trainer/__pycache__/condist.pyc").write_bytes(b"not part of it")

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", "src/losses.py", "src/trainer.py", "src/trainer/condist.py")
    tree = git("rev-parse", f"{git('write-tree')}:src")
    assert reference_code.git_tree(checkout / "src").hex() == tree
    assert tree[:7] in reference_code.find_reference(checkout).describe()


def test_its_modules_are_found_first_and_never_beside_others_of_their_names(reference_code, checkout, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    reference = reference_code.find_reference(checkout)
    reference.use()
    assert sys.path[0] == str(checkout / "src")
    monkeypatch.setitem(sys.modules, "losses", sys)
    with pytest.raises(RuntimeError, match="losses"):
        reference.use()


def test_cuda_means_another_device_only_within(reference_code):
    to = torch.Tensor.to
    with reference_code.cuda_means("meta"):
        assert torch.ones(1).to("cuda:0").device.type == "meta"
        assert torch.ones(1).cuda().device.type == "meta"
        assert torch.nn.Linear(1, 1).to(device=torch.device("cuda")).weight.device.type == "meta"
        assert torch.ones(1).to("cpu", torch.float64).dtype == torch.float64
    assert torch.Tensor.to is to
