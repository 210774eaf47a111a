"""Tiny folders in the published layout of each data set: real NIfTI files of 24x24x16 voxels with boxes as organs.

    folder = write_layout("msd-liver", tmp_path / "Task03_Liver", cases=6)

``cases`` counts the labelled CT cases. Each folder also has what the published one has besides them: test images
without labels, macOS files, MRI among the CT.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from zlib import crc32

import nibabel
import numpy as np

SHAPE = (24, 24, 16)
SPACING_MM = (12.0, 12.0, 15.0)
AFFINE = np.array([[12.0, 0, 0, -138.0], [0, 12.0, 0, -138.0], [0, 0, 15.0, -100.0], [0, 0, 0, 1.0]])
"""RAS+: x grows to the patient's right."""

BOXES = {
    "liver": ((14, 22), (8, 18), (8, 14)),
    "spleen": ((2, 6), (6, 12), (9, 13)),
    "pancreas": ((8, 13), (11, 13), (6, 9)),
    "kidney_right": ((16, 19), (3, 7), (3, 8)),
    "kidney_left": ((5, 8), (3, 6), (3, 8)),
    "stomach": ((7, 12), (13, 18), (9, 13)),
    "gallbladder": ((15, 17), (16, 18), (6, 8)),
    "esophagus": ((10, 11), (8, 9), (12, 16)),
    "aorta": ((11, 13), (7, 9), (1, 15)),
    "vena_cava": ((13, 14), (7, 9), (1, 15)),
    "portal_vein": ((12, 14), (10, 11), (9, 10)),
    "adrenal_gland_right": ((17, 18), (7, 8), (8, 9)),
    "adrenal_gland_left": ((6, 7), (6, 7), (8, 9)),
    "duodenum": ((13, 15), (11, 13), (4, 6)),
    "colon": ((3, 5), (12, 16), (2, 6)),
    "intestine": ((8, 12), (14, 18), (3, 7)),
    "rectum": ((11, 13), (5, 7), (0, 1)),
    "bladder": ((10, 14), (12, 16), (0, 2)),
    "prostate_uterus": ((11, 13), (8, 11), (0, 1)),
    "femur_left": ((4, 6), (8, 10), (0, 1)),
    "femur_right": ((18, 20), (8, 10), (0, 1)),
    "liver_tumor": ((17, 20), (11, 14), (10, 12)),
    "pancreas_tumor": ((10, 12), (11, 13), (7, 8)),
    "kidney_tumor": ((17, 19), (4, 6), (5, 7)),
    "kidney_cyst": ((6, 7), (4, 5), (4, 5)),
}
"""Structure -> voxels from, to along each axis; lesions come last, over their organs."""
_KIDNEYS = ("kidney_right", "kidney_left")

AMOS = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta", "vena_cava"),
    *("pancreas", "adrenal_gland_right", "adrenal_gland_left", "duodenum", "bladder", "prostate_uterus"),
)
BTCV = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta", "vena_cava"),
    *("portal_vein", "pancreas", "adrenal_gland_right", "adrenal_gland_left"),
)
WORD = (
    *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "gallbladder", "esophagus", "pancreas", "duodenum"),
    *("colon", "intestine", ("adrenal_gland_right", "adrenal_gland_left"), "rectum", "bladder"),
    *("femur_left", "femur_right"),
)
LIVER, PANCREAS, KIDNEY = ("liver", "liver_tumor"), ("pancreas", "pancreas_tumor"), (_KIDNEYS, "kidney_tumor")
Labels = tuple[str | tuple[str, ...], ...]


def write_layout(name: str, folder: Path, cases: int = 6) -> Path:
    """Write ``cases`` labelled CT cases in the layout ``name`` of LAYOUTS; returns the folder a user would give."""
    LAYOUTS[name](folder, cases)
    return folder


def write_pair(image: Path, label: Path | None, structures: Labels, seed: int = 0) -> None:
    """A CT of ``SHAPE`` and, unless None, its label map: value i + 1 for the i-th of ``structures``. The noise follows
    from the names: no two data sets share a scan."""
    rng = np.random.default_rng([seed, crc32("/".join(image.parts[-3:]).encode())])
    hounsfield, values = np.full(SHAPE, -1000.0), np.zeros(SHAPE, np.uint8)
    hounsfield[1:-1, 2:-2] = 0
    for number, structure in enumerate(BOXES):
        hounsfield[_box(structure)] = 40 + 8 * number
    for value, group in sorted(enumerate(structures, start=1), key=lambda item: "_" in str(item[1])):
        for structure in (group,) if isinstance(group, str) else group:
            values[_box(structure)] = value
    _save(image, (hounsfield + rng.normal(0, 10, SHAPE)).astype(np.int16))
    if label is not None:
        _save(label, values)


def _box(structure: str) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in BOXES[structure])


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


def _msd(organ: str, structures: Labels, labels: Mapping[int, str]) -> Callable[[Path, int], None]:
    def write(folder: Path, cases: int) -> None:
        entries = []
        for number in range(cases):
            name = f"{organ}_{number}.nii.gz"
            write_pair(folder / "imagesTr" / name, folder / "labelsTr" / name, structures, number)
            (folder / "imagesTr" / f"._{name}").write_bytes(b"\0\5\26\7")
            entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        tests = [f"{organ}_{number}.nii.gz" for number in range(cases, cases + 2)]
        for number, name in enumerate(tests, start=cases):
            write_pair(folder / "imagesTs" / name, None, structures, number)
        content = {
            "name": organ,
            "modality": {"0": "CT"},
            "labels": {"0": "background", **{str(value): label for value, label in labels.items()}},
            "numTraining": cases,
            "numTest": 2,
            "training": entries,
            "test": [f"./imagesTs/{name}" for name in tests],
        }
        (folder / "dataset.json").write_text(json.dumps(content))

    return write


def _kits19(folder: Path, cases: int) -> None:
    _kits(folder / "data", cases, KIDNEY)


def _kits23(folder: Path, cases: int) -> None:
    _kits(folder / "dataset", cases, (*KIDNEY, "kidney_cyst"))


def _kits(folder: Path, cases: int, structures: Labels) -> None:
    """The last two cases are the hidden test set's: images alone."""
    for number in range(cases + 2):
        case = folder / f"case_{number:05d}"
        label = case / "segmentation.nii.gz" if number < cases else None
        write_pair(case / "imaging.nii.gz", label, structures, number)


def _lits17(folder: Path, cases: int) -> None:
    for number in range(cases):
        batch = folder / f"Training Batch {1 if number < cases // 2 else 2}"
        write_pair(batch / f"volume-{number}.nii", batch / f"segmentation-{number}.nii", LIVER, number)
    write_pair(folder / "LITS-Challenge-Test-Data" / "test-volume-0.nii", None, LIVER, cases)


def _amos22(folder: Path, cases: int) -> None:
    """A third of the cases is the validation set; beside the CT lie an MRI in each and a test image."""
    for number in range(1, cases + 1):
        _pair(folder, "Va" if number > cases - cases // 3 else "Tr", f"amos_{number:04d}", AMOS, number)
    _pair(folder, "Tr", "amos_0507", AMOS, 507)
    _pair(folder, "Va", "amos_0540", AMOS, 540)
    write_pair(folder / "imagesTs" / "amos_0300.nii.gz", None, AMOS, 300)


def _word(folder: Path, cases: int) -> None:
    """The last two cases are one for validation and one test case, all with labels."""
    parts = ["Tr"] * (cases - 2) + ["Val", "Ts"]
    for number, part in enumerate(parts, start=1):
        _pair(folder, part, f"word_{number:04d}", WORD, number)


def _btcv(folder: Path, cases: int) -> None:
    training = folder / "RawData" / "Training"
    for number in range(1, cases + 1):
        image, label = f"img/img{number:04d}.nii.gz", f"label/label{number:04d}.nii.gz"
        write_pair(training / image, training / label, BTCV, number)
    write_pair(folder / "RawData" / "Testing" / "img" / "img0061.nii.gz", None, BTCV, 61)


def _folders(folder: Path, cases: int) -> None:
    for number in range(cases):
        name = f"patient {number:02d}.nii.gz"
        write_pair(folder / "images" / name, folder / "labels" / name, LIVER, number)


def _nnunet(folder: Path, cases: int) -> None:
    _nnunet_files(folder, cases)
    labels = {"background": 0, "liver": 1, "liver tumor": 2}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))


def _nnunet_v1(folder: Path, cases: int) -> None:
    _nnunet_files(folder, cases)
    labels = {"0": "background", "1": "liver", "2": "tumor"}
    content = {"modality": {"0": "CT"}, "labels": labels, "numTraining": cases, "training": [], "test": []}
    (folder / "dataset.json").write_text(json.dumps(content))


def _nnunet_files(folder: Path, cases: int) -> None:
    for number in range(cases):
        image, label = f"imagesTr/liver_{number:03d}_0000.nii.gz", f"labelsTr/liver_{number:03d}.nii.gz"
        write_pair(folder / image, folder / label, LIVER, number)
    write_pair(folder / "imagesTs" / f"liver_{cases:03d}_0000.nii.gz", None, LIVER, cases)


def _pair(folder: Path, part: str, case: str, structures: Labels, seed: int) -> None:
    name = f"{case}.nii.gz"
    write_pair(folder / f"images{part}" / name, folder / f"labels{part}" / name, structures, seed)


LAYOUTS: dict[str, Callable[[Path, int], None]] = {
    "msd-liver": _msd("liver", LIVER, {1: "liver", 2: "cancer"}),
    "msd-pancreas": _msd("pancreas", PANCREAS, {1: "pancreas", 2: "cancer"}),
    "msd-spleen": _msd("spleen", ("spleen",), {1: "spleen"}),
    "kits19": _kits19,
    "kits23": _kits23,
    "lits17": _lits17,
    "amos22": _amos22,
    "btcv": _btcv,
    "word": _word,
    "folders": _folders,
    "nnunet": _nnunet,
    "nnunet-v1": _nnunet_v1,
}
