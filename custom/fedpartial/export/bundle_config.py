"""The configuration with which MONAI runs a bundle: ``python -m monai.bundle run``, nothing but MONAI installed.

It repeats data/preprocess.py in MONAI's transforms. MONAI's own Spacing begins its grid at the scan's first voxel; with
the phantom's voxels of 8 mm that moves labels: organs agree with ``fedpartial predict`` to a Dice of 0.88 to 0.98. So
the grid is computed in the configuration, centred on the scan as training had it: no voxel differs on two scans of the
phantom and on one real CT.
"""

from __future__ import annotations

from fedpartial.data.preprocess import COVER_TOLERANCE
from fedpartial.export.source import Example, Source
from fedpartial.presets import Preset

WEIGHTS, PROGRAM = "models/model.pt", "models/model.ts"
AXES = {"channel_dim": -1, "spatial_ndim": 2}
"""With these MONAI writes an array (H W D) as it is, one slice too; else it drops last axes of length 1."""
RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


def inference_config(source: Source, example: Example | None) -> dict:
    """``configs/inference.json``; example: that of the bundle's program, None where MONAI has the network itself."""
    preset = source.preset
    batch = preset.inference_batch if example is None or example.batch > 1 else 1
    return {
        "imports": ["$import glob", "$import math", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "datalist": "$sorted(p for e in ('*.nii', '*.nii.gz') for p in glob.glob(os.path.join(@dataset_dir, e)))",
        "output_dir": "$@bundle_root + '/eval'",
        "output_postfix": "labels",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **_network(source),
        **_grid(preset),
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(preset)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": _inferer(preset, batch),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing()},
        "file_writer": _file_writer(),
        "saver_options": f"$@file_writer.set_options(data_kwargs={AXES})",
        "saver": {"_target_": "Compose", "transforms": [_without_channel(), "@saver_options"]},
        "scores": "$torch.no_grad()(lambda image: @inferer(image[None], @network)[0])",
        "segment": "$lambda case: @postprocessing({**case, 'pred': @scores(case['image'])})",
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$[@saver(@segment(case)) and None for case in @dataset]"],
    }


def _network(source: Source) -> dict:
    if not source.is_dynunet:
        program = f"$torch.jit.load(@bundle_root + '/{PROGRAM}', map_location=@device)"
        return {"network_def": program, "network": "$@network_def.to(@device).eval()"}
    config = source.preset.network
    load = f"torch.load(@bundle_root + '/{WEIGHTS}', map_location='cpu', weights_only=True)"
    return {
        "network_def": {
            "_target_": "DynUNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": source.preset.label_space.num_channels,
            "kernel_size": list(map(list, config.kernels)),
            "strides": list(map(list, config.strides)),
            "upsample_kernel_size": list(map(list, config.strides[1:])),
            "filters": list(config.filters),
        },
        "weights": f"$@network_def.load_state_dict({load})",
        "network": "$(@weights, @network_def.to(@device).eval())[1]",
    }


def _grid(preset: Preset) -> dict:
    """The grid that covers a scan, centred on it (data/preprocess.py prepared_grid), as an empty image."""
    counts = f"max(1, math.ceil(n * p / s - {COVER_TOLERANCE}))"
    return {
        "spacing": list(preset.spacing_mm),
        "grid_shape": f"$lambda i: [{counts} for n, p, s in zip(i.shape[1:], i.pixdim.tolist(), @spacing)]",
        "grid_vectors": "$lambda i: i.affine[:3, :3] / i.pixdim * torch.tensor(@spacing, dtype=torch.float64)",
        "grid_origin": (
            "$lambda i: i.affine[:3, 3] + i.affine[:3, :3].mv(torch.tensor(i.shape[1:], dtype=torch.float64) - 1) / 2"
            " - @grid_vectors(i).mv(torch.tensor(@grid_shape(i), dtype=torch.float64) - 1) / 2"
        ),
        "grid_affine": (
            "$lambda i: torch.cat([torch.cat([@grid_vectors(i), @grid_origin(i)[:, None]], 1),"
            " torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)])"
        ),
        "grid": (
            "$lambda i: monai.data.MetaTensor(torch.zeros(1).expand(1, *@grid_shape(i)),"
            " meta={**i.meta, 'affine': @grid_affine(i)})"
        ),
    }


def _preprocessing(preset: Preset) -> list[dict]:
    low, high = ((hu - preset.normalise_subtract) / preset.normalise_divide for hu in preset.window_hu)
    return [
        {"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": "no_channel"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": [list(pair) for pair in RAS_LABELS]},
        {"_target_": "CopyItemsd", "keys": "image", "names": "grid"},
        {"_target_": "Lambdad", "keys": "grid", "func": "@grid", "track_meta": True},
        {
            "_target_": "ResampleToMatchd",
            "keys": "image",
            "key_dst": "grid",
            "mode": "bilinear",
            "padding_mode": "border",
            "align_corners": False,
            "dtype": "$torch.float32",
        },
        {"_target_": "DeleteItemsd", "keys": "grid"},
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": preset.window_hu[0],
            "a_max": preset.window_hu[1],
            "b_min": low,
            "b_max": high,
            "clip": True,
        },
    ]


def _inferer(preset: Preset, batch: int) -> dict:
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(preset.patch),
        "sw_batch_size": batch,
        "overlap": preset.overlap,
        "mode": "gaussian",
        "cval": preset.air,
        "sw_device": "@device",
        "device": "cpu",
    }


def _postprocessing() -> list[dict]:
    inverse = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
    return [
        {"_target_": "Invertd", "keys": "pred", **inverse},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ]


def _without_channel() -> dict:
    """Its meta data may not say how many axes it has, or SaveImaged would take it for something else and cut it."""
    plain = "$lambda p: monai.data.MetaTensor(p[0], meta={**p.meta, 'spatial_shape': ()})"
    return {"_target_": "Lambdad", "keys": "pred", "func": plain, "track_meta": True}


def _file_writer() -> dict:
    return {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "@output_postfix",
        "output_ext": ".nii.gz",
        "output_dtype": "$numpy.uint8",
        "resample": False,
        "separate_folder": False,
        "squeeze_end_dims": False,
    }
