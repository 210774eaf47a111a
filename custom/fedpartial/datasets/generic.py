"""Layouts that any data set may have: the Decathlon's, nnU-Net's, and two folders. They hold one data set at the top of
the folder that the user names."""

from __future__ import annotations

from fedpartial.datasets.layout import NIFTI, Layout, Part
from fedpartial.datasets.published import MSD_CITATION, MSD_LICENCE, MSD_PAGE

_TOP = r"^[^/]+/"
_CASE = _TOP + r"(?P<id>[^/]+)/"
GENERIC = (
    Layout(
        name="msd",
        title="Task of the Medical Segmentation Decathlon",
        page=MSD_PAGE,
        licence=MSD_LICENCE,
        citation=MSD_CITATION,
        looks_like="dataset.json, imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz",
        parts=(
            Part(
                split="training",
                image=rf"{_TOP}imagesTr/(?P<id>[^/]+?){NIFTI}",
                label=rf"{_TOP}labelsTr/(?P<id>[^/]+?){NIFTI}",
            ),
            Part(split="testing", image=rf"{_TOP}imagesTs/(?P<id>[^/]+?){NIFTI}"),
        ),
        has_json=True,
    ),
    Layout(
        name="nnunet",
        title="Raw data set of nnU-Net, version 1 or 2",
        page="https://github.com/MIC-DKFZ/nnUNet",
        looks_like="dataset.json, imagesTr/NAME_0000.nii.gz and labelsTr/NAME.nii.gz",
        parts=tuple(
            Part(
                split=split,
                image=rf"{_TOP}images{folder}/(?P<id>[^/]+?)_0000{NIFTI}",
                label=rf"{_TOP}labels{folder}/(?P<id>[^/]+?){NIFTI}",
            )
            for folder, split in (("Tr", "training"), ("Ts", "testing"))
        ),
        has_json=True,
    ),
    Layout(
        name="folders",
        title="Your own files: images and labels with equal names",
        looks_like="images/NAME.nii.gz and labels/NAME.nii.gz (or NAME_seg, NAME_label, NAME_mask); or a folder a "
        "case, NAME/image.nii.gz and NAME/label.nii.gz",
        parts=(
            *(
                Part(
                    split=split,
                    image=rf"{_TOP}(?:images?|imgs?){folder}/(?P<id>.+?)(?:_(?:image|img|ct|0000))?{NIFTI}",
                    label=rf"{_TOP}(?:labels?|masks?|segmentations?){folder}/(?P<id>.+?)"
                    rf"(?:[_-](?:labels?|masks?|seg|segmentation|gt))?{NIFTI}",
                )
                for folder, split in (("(?:Tr)?", "training"), ("Ts", "testing"))
            ),
            Part(
                split="training",
                image=rf"{_CASE}(?:image|ct|volume){NIFTI}",
                label=rf"{_CASE}(?:label|mask|seg){NIFTI}",
            ),
        ),
    ),
)
