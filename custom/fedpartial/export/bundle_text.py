"""What a bundle tells its reader: docs/README.md and LICENSE."""

from __future__ import annotations

from fedpartial.export.bundle_metadata import SCHEMA_URL
from fedpartial.export.description import NO_DEVICE
from fedpartial.export.source import Source

LICENSE_TEXT = f"""{NO_DEVICE}

This bundle holds the weights of a network and a configuration for MONAI.

Weights: fedpartial puts no licence on them. Whoever trained the model, and the terms of the data it was trained on,
decide who may use it and for what. Replace this file with their licence before you pass the bundle on.

Configuration: written by fedpartial, Apache License 2.0.
"""

BYTES_PER_SCORE = 8
"""float32, and a copy of it while it is resampled."""

README = """# {task}

{notice}

{description}

| label | class |
|---|---|
{classes}

Classes that the network has an output for: {known}.

## Run

Install PyTorch {pytorch}, MONAI {monai}, nibabel {nibabel} and fire (`pip install monai nibabel fire`). In this folder:

    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
        --dataset_dir FOLDER_WITH_NIFTI --output_dir labels

Every CT in the folder (.nii, .nii.gz, Hounsfield units, any spacing and orientation) gets a label map
`labels/<name>_labels.nii.gz` on its own grid. Single files: `--datalist "['ct.nii.gz']"`. From another folder:
`--bundle_root PATH`. A GPU is taken where there is one; `--device '$torch.device("cpu")'` leaves it alone.

The scores of all {num_classes} classes are brought back to the scan's own grid at once, as MONAI does it: at least
{bytes_per_voxel} bytes of memory for each voxel of the scan. `fedpartial predict` needs a small part of that.

## Verify

    python -m monai.bundle verify_net_in_out network --config_file configs/inference.json \\
        --meta_file configs/metadata.json
    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath docs/metadata_schema.json

The second compares with the schema in this folder. To compare with MONAI's own, give a file name that does not exist
yet; it is downloaded from {schema}

## Preprocessing

Orientation R A S; spacing {spacing} mm, linear, on a grid centred on the scan; clipped to {low:g} to {high:g} HU;
minus {subtract:g}, divided by {divide:g}. Patches of {patch} voxels, overlap {overlap:g}, Gaussian weights. Scores go
back to the scan's grid linearly, then the highest wins.
"""


def readme(source: Source, metadata: dict) -> str:
    """docs/README.md of a bundle with that metadata."""
    preset, facts = source.preset, metadata["fedpartial"]
    classes = facts["output"]["classes"]
    return README.format(
        task=metadata["task"],
        notice=NO_DEVICE,
        description=metadata["description"],
        classes="\n".join(f"| {number} | {name} |" for number, name in enumerate(classes)),
        known=", ".join(facts["output"]["known"]),
        pytorch=metadata["pytorch_version"],
        monai=metadata["monai_version"],
        nibabel=metadata["required_packages_version"]["nibabel"],
        num_classes=len(classes),
        bytes_per_voxel=BYTES_PER_SCORE * len(classes),
        schema=SCHEMA_URL,
        spacing=" x ".join(f"{mm:g}" for mm in preset.spacing_mm),
        low=preset.window_hu[0],
        high=preset.window_hu[1],
        subtract=preset.normalise_subtract,
        divide=preset.normalise_divide,
        patch=" x ".join(map(str, preset.patch)),
        overlap=preset.overlap,
    )
