"""Apply a trained global model to an image file: NIfTI in, NIfTI label map out, same geometry."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fedpartial.data.integrity import load_checked, raise_for_faults
from fedpartial.data.preprocess import load_image, preprocess_image, restore_logits
from fedpartial.networks.build import build_network
from fedpartial.networks.canonical import load_canonical
from fedpartial.training.evaluator import predict_logits
from fedpartial.training.model_file import load_model
from fedpartial.training.plan import Plan
from fedpartial.training.precision import select_precision


def predict_file(model_path: Path, image_path: Path, out_path: Path, *, device: str = "auto") -> Path:
    """Segment one image with a model written by a job and save its label map (uint8 channels).

    The label map has the image's shape, affine and header; it is written under a temporary name and
    renamed, so that an interrupted run leaves no half file. Raises ConfigError for a foreign model
    file and DataFaults for an image that cannot be read.
    """
    import nibabel as nib

    weights, info = load_model(Path(model_path))
    preset = Plan.from_dict(info.plan).config
    precision = select_precision(device, where="--device")
    network = build_network(preset, seed=0).to(precision.device, memory_format=torch.channels_last_3d)
    load_canonical(network, {name: torch.from_numpy(value) for name, value in weights.items()})
    volume = load_checked(Path(image_path), "image", load_image, faults := [])
    raise_for_faults(faults)
    prepared = preprocess_image(volume, preset)
    logits = predict_logits(network, prepared.array, preset, precision)
    label = restore_logits(logits, prepared.affine, volume.array.shape, volume.affine)
    header = nib.load(image_path).header.copy()
    header.set_data_dtype("uint8")
    header.set_slope_inter(1, 0)
    out_path = Path(out_path)
    temporary = out_path.with_name(f".{os.getpid()}.{out_path.name}")
    nib.save(nib.Nifti1Image(label, None, header), temporary)
    os.replace(temporary, out_path)
    return out_path
