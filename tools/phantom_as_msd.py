"""Write the embedded phantom in the folder layout of the Medical Segmentation Decathlon, to try the commands on.

    python tools/phantom_as_msd.py liver downloads/Task03_Liver
    python tools/phantom_as_msd.py spleen downloads/Task09_Spleen

The same folders, file names, dataset.json and label values as the published data sets, with some twenty synthetic CTs
in place of the real ones: what works on them works on the download. The images are no patients.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from fedpartial.phantom import ensure_phantom
from fedpartial.sites import default_cache_dir

TASKS = {
    "liver": ("Liver", {"0": "background", "1": "liver", "2": "cancer"}),
    "pancreas": ("Pancreas", {"0": "background", "1": "pancreas", "2": "cancer"}),
    "spleen": ("Spleen", {"0": "background", "1": "spleen"}),
}
"""Site of the phantom -> name of its task and what its dataset.json says of the labels."""
NUM_TEST = 2
"""Images without labels, in imagesTs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path, help="new folder, for example Task03_Liver")
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"{given.folder} exists; name a new folder")
    print(f"{write_task(given.task, given.folder)} labelled cases in {given.folder}")


def write_task(site: str, folder: Path) -> int:
    """Copy a site of the phantom into MSD's layout; the number of labelled cases."""
    datalist = ensure_phantom(default_cache_dir() / "phantom", site)
    source, listed = datalist.parent, json.loads(datalist.read_text(encoding="utf-8"))
    cases = [case for split in ("training", "validation", "testing") for case in listed[split]]
    entries = {"imagesTr": cases[:-NUM_TEST], "imagesTs": cases[-NUM_TEST:]}
    for part in (*entries, "labelsTr"):
        (folder / part).mkdir(parents=True)
    files = []
    for number, case in enumerate(cases):
        part, name = ("imagesTr" if case in entries["imagesTr"] else "imagesTs"), f"{site}_{number:03d}.nii.gz"
        shutil.copyfile(source / case["image"], folder / part / name)
        if part == "imagesTr":
            shutil.copyfile(source / case["label"], folder / "labelsTr" / name)
        files.append((part, name))
    (folder / "dataset.json").write_text(json.dumps(_dataset(site, files), indent=2), encoding="utf-8")
    return len(entries["imagesTr"])


def _dataset(site: str, files: list[tuple[str, str]]) -> dict:
    """dataset.json as MSD's, so far as anything reads it."""
    name, labels = TASKS[site]
    training = [{"image": f"./{p}/{n}", "label": f"./labelsTr/{n}"} for p, n in files if p == "imagesTr"]
    test = [f"./{part}/{n}" for part, n in files if part == "imagesTs"]
    return {
        "name": name,
        "description": f"Synthetic CTs of {site}, in the layout of the Medical Segmentation Decathlon",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": labels,
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
    }


if __name__ == "__main__":
    main()
