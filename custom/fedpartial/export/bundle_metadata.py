"""``metadata.json`` of a MONAI bundle, and a schema to check it without a network connection.

MONAI names its schema by date and URL, and ``monai.bundle verify_metadata`` downloads it. The schema here states the
same demands (fields, types) in own words and lies in the bundle, so that a hospital without internet can verify too.
"""

from __future__ import annotations

from importlib.metadata import version

from fedpartial.export.description import NO_DEVICE, describe
from fedpartial.export.source import Source

SCHEMA_URL = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
BUNDLE_VERSION = "1.0.0"
TEXT, OBJECT = {"type": "string"}, {"type": "object"}


def bundle_metadata(source: Source) -> dict:
    """What MONAI asks for, and under "fedpartial" the description that every exported file has."""
    facts = describe(source)
    classes = facts["output"]["classes"]
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    return {
        "schema": SCHEMA_URL,
        "version": BUNDLE_VERSION,
        "changelog": {BUNDLE_VERSION: "exported by fedpartial"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel")},
        "task": f"Segmentation of abdominal CT: {', '.join(classes[1:])}",
        "description": (
            f"A network trained by fedpartial (job {source.info.plan['job']}, preset {source.preset.name}) in a "
            "federation of sites that each annotate some of the classes only."
        ),
        "authors": "The sites of the federation that trained the model",
        "copyright": "Copyright of the weights: whoever trained them. See LICENSE.",
        "data_source": "Images of the federation's sites. They never left the sites and are no part of this bundle.",
        "data_type": "nifti",
        "image_classes": "one channel of CT in Hounsfield units, at any spacing and orientation",
        "label_classes": numbered,
        "pred_classes": numbered,
        "eval_metrics": _metrics(source),
        "intended_use": NO_DEVICE,
        "network_data_format": _network_io(source),
        "fedpartial": facts,
    }


def _metrics(source: Source) -> dict:
    dice = source.info.val_dice
    return {} if dice is None else {"mean_validation_dice": round(dice, 4)}


def _network_io(source: Source) -> dict:
    preset = source.preset
    patch, classes = list(preset.patch), preset.label_space.channels
    low, high = ((hu - preset.normalise_subtract) / preset.normalise_divide for hu in preset.window_hu)
    common = {"type": "image", "spatial_shape": patch, "dtype": "float32", "is_patch_data": True}
    image = {"format": "hounsfield", "modality": "CT", "num_channels": 1, "value_range": [low, high]}
    pred = {"format": "segmentation", "num_channels": len(classes), "value_range": []}
    return {
        "inputs": {"image": {**common, **image, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {**common, **pred, "channel_def": {str(n): name for n, name in enumerate(classes)}}},
    }


def metadata_schema() -> dict:
    """What MONAI's schema of 2024-07-25 demands of a segmentation bundle, as JSON Schema."""
    texts = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors")
    texts += ("copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use")
    objects = ("changelog", "required_packages_version", "eval_metrics")
    optional = {"changelog", "eval_metrics", "data_source", "data_type", "image_classes", "label_classes"}
    optional |= {"pred_classes", "intended_use"}
    sides = {"type": "object", "additionalProperties": _tensor_schema()}
    io = {"type": "object", "properties": {"inputs": sides, "outputs": sides}, "required": ["inputs", "outputs"]}
    properties = {**dict.fromkeys(texts, TEXT), **dict.fromkeys(objects, OBJECT), "network_data_format": io}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": sorted(properties.keys() - optional),
    }


def _tensor_schema() -> dict:
    properties = {
        "type": TEXT,
        "format": TEXT,
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
    }
    optional = {"is_patch_data": {"type": "boolean"}, "channel_def": OBJECT}
    return {"type": "object", "properties": properties | optional, "required": list(properties)}
