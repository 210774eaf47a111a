"""What ``inference.py`` predicts and with which weights: a CT of hospital size, a model file, the reference's model.

The CT is a patient of the phantom painted at 512 x 512 x 200 voxels of 0.7 x 0.7 x 1.25 mm (int16, .nii.gz). With
random weights neighbouring classes win by accident and labels could not be compared; so the network is trained for some
steps on small patches of another patient, enough to find most organs and no more.
"""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from large_phantom import paint
from reference_code import Reference, cuda_means, find_reference

from fedpartial.data.preprocess import Volume, preprocess_image, preprocess_label
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import canonical_state, load_canonical
from fedpartial.phantom import make_case
from fedpartial.presets import Preset, get_preset
from fedpartial.training.model_file import load_model, model_info, save_model
from fedpartial.training.plan import Plan
from fedpartial.training.precision import select_precision

PRESET = "abdomen"
SHAPE, SPACING_MM, LEVEL = (512, 512, 200), (0.7, 0.7, 1.25), 6
"""LEVEL: of gzip, as most converters write."""
TRAINING_PATCH, LEARNING_RATE = (96, 96, 32), 1e-3
MODEL, TRACED, TASK = "model.safetensors", "traced.pt", "task.json"


def make_ct(path: Path) -> None:
    """Write the CT, about a minute."""
    import nibabel

    image, _, affine = paint(SHAPE, SPACING_MM, np.random.default_rng(0))
    nibabel.openers.Opener.default_compresslevel = LEVEL
    nibabel.save(nibabel.Nifti1Image(image, affine), path)


def make_model(folder: Path, steps: int) -> None:
    """Write a model file of preset abdomen, trained for so many steps (seeded)."""
    preset = get_preset(PRESET)
    network = build_network(preset, seed=0).eval()
    train(network, preset, steps)
    weights = {name: tensor.numpy() for name, tensor in canonical_state(network).items()}
    plan = Plan(job="benchmark", preset=PRESET, num_rounds=1, local_steps=max(1, steps))
    save_model(folder / MODEL, weights, model_info(plan, 1))


def train(network: torch.nn.Module, preset: Preset, steps: int) -> None:
    """Cross-entropy on patches around random classes of one coarse case of the phantom; no deep supervision."""
    case = make_case("external", 0)
    volume, truth = (Volume(array=array, affine=case.affine) for array in (case.image, case.full_label))
    image = preprocess_image(volume, preset).array
    names = dict(enumerate(preset.label_space.classes, start=1))
    label = preprocess_label(truth, preset.label_space.table(names, where="benchmark"), preset)
    present, rng = np.unique(label), np.random.default_rng(0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    for _ in range(steps):
        box = patch_around(np.argwhere(label == rng.choice(present)), label.shape, rng)
        with select_precision("cpu").autocast():
            logits = network(torch.from_numpy(image[box])[None, None]).float()
        target = torch.from_numpy(label[box]).long()[None]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, target).backward()
        optimiser.step()


def patch_around(voxels: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    """A training patch inside the volume, around one of ``voxels`` (n, 3)."""
    centre = voxels[rng.integers(len(voxels))]
    starts = [int(np.clip(c - n // 2, 0, size - n)) for c, n, size in zip(centre, TRAINING_PATCH, shape, strict=True)]
    return tuple(slice(start, start + n) for start, n in zip(starts, TRAINING_PATCH, strict=True))


def plain_network(folder: Path) -> torch.nn.Module:
    """MONAI's own network, as the reference's task file describes it, with the model file's weights."""
    from monai.networks.nets.dynunet import DynUNet

    network = DynUNet(**json.loads((folder / TASK).read_text())["model"]["args"]).eval()
    weights, _ = load_model(folder / MODEL)
    load_canonical(network, {name: torch.from_numpy(value) for name, value in weights.items()})
    return network


def make_traced(folder: Path, reference: Path) -> None:
    """The reference's TorchScript model by its own convert_to_torchscript.py, from the weights of the model file."""
    found = find_reference(reference)
    (folder / TASK).write_text(json.dumps(found.job_file("spleen", "config_task.json")))
    network = plain_network(folder)
    torch.save({"model": network.state_dict()}, folder / "checkpoint.pt")
    names = {"config": TASK, "weights": "checkpoint.pt", "output": TRACED}
    script = reference_script(found, "convert_to_torchscript")
    with cuda_means("cpu"):
        script.run_convert(Namespace(app="spleen", **{key: str(folder / name) for key, name in names.items()}))


def reference_script(reference: Reference, name: str):
    """One of the scripts in the reference's folder as a module, which imports the rest as ``src``."""
    sys.path.insert(0, str(reference.folder))
    return importlib.import_module(name)
