"""The layouts of the papers' data sets after unpacking.

Facts from the data sets' own pages and archives; those of MSD, KiTS23 and AMOS22 also from nnU-Net's
nnunetv2/dataset_conversion, those of WORD from its repository's README. Sizes count labelled CT.
"""

from __future__ import annotations

from fedpartial.datasets.layout import NIFTI, Layout, Part

MSD_PAGE, MSD_LICENCE = "http://medicaldecathlon.com", "CC BY-SA 4.0"
MSD_CITATION = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022"
_KITS_LICENCE = "CC BY-NC-SA 4.0"


def _values(*structures: str) -> dict[int, str]:
    return dict(enumerate(structures, start=1))


def _pair(folder: str, name: str, split: str) -> Part:
    """imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz, at any depth; the files may have been gunzipped."""
    pattern = f"(?P<id>{name}){NIFTI}"
    return Part(split=split, image=rf"(?:^|/)images{folder}/{pattern}", label=rf"(?:^|/)labels{folder}/{pattern}")


def _msd(organ: str, number: int, cases: int, structures: dict[int, str]) -> Layout:
    return Layout(
        name=f"msd-{organ}",
        title=f"MSD Task{number:02d} {organ.capitalize()}",
        page=MSD_PAGE,
        licence=MSD_LICENCE,
        citation=MSD_CITATION,
        looks_like=f"imagesTr and labelsTr with {organ}_0.nii.gz and so on (imagesTs has no labels)",
        parts=(_pair("Tr", rf"{organ}_\d+", "training"), _pair("Ts", rf"{organ}_\d+", "testing")),
        cases=cases,
        structures=structures,
        paper_key=organ,
        site=organ,
    )


def _kits(year: int, folder: str, cases: int, structures: dict[int, str], page: str, citation: str) -> Layout:
    case = r"(?:^|/)(?P<id>case_\d{5})/"
    return Layout(
        name=f"kits{year}",
        title=f"KiTS{year}",
        page=page,
        licence=_KITS_LICENCE,
        citation=citation,
        looks_like=f"{folder}/case_00000 and so on, each with imaging.nii.gz and segmentation.nii.gz",
        parts=(Part(split="training", image=rf"{case}imaging{NIFTI}", label=rf"{case}segmentation{NIFTI}"),),
        cases=cases,
        structures=structures,
        marks=rf"(?:^|/){folder}/case_\d{{5}}/",
        hint="Its repository has the labels only: its download script fetches the images.",
        paper_key="kidney" if year == 19 else None,
        site="kidney",
    )


_LITS = r"(?:^|/)%s-(?P<id>\d+)" + NIFTI

PUBLISHED = (
    _msd("liver", 3, 131, {1: "liver", 2: "liver_tumor"}),
    _msd("pancreas", 7, 281, {1: "pancreas", 2: "pancreas_tumor"}),
    _msd("spleen", 9, 41, {1: "spleen"}),
    _kits(
        *(19, "data", 210, {1: "kidney", 2: "kidney_tumor"}, "https://github.com/neheller/kits19"),
        "Heller et al., The KiTS19 Challenge Data, arXiv 1904.00445",
    ),
    _kits(
        *(23, "dataset", 489, {1: "kidney", 2: "kidney_tumor", 3: "kidney_cyst"}),
        *("https://github.com/neheller/kits23", "Heller et al., The KiTS21 Challenge, arXiv 2307.01984"),
    ),
    Layout(
        name="lits17",
        title="LiTS17 (the same patients as MSD Task03 Liver)",
        page="https://competitions.codalab.org/competitions/17094",
        licence="CC BY-NC-ND 4.0",
        citation="Bilic et al., The Liver Tumor Segmentation Benchmark, Medical Image Analysis 2023",
        looks_like="volume-0.nii and segmentation-0.nii, flat or in 'Training Batch 1' and 'Training Batch 2'",
        parts=(
            Part(split="training", image=_LITS % "volume", label=_LITS % "segmentation"),
            Part(split="testing", image=r"(?:^|/)(?P<id>test-volume-\d+)" + NIFTI),
        ),
        cases=131,
        structures={1: "liver", 2: "liver_tumor"},
        paper_key="liver",
        site="liver",
    ),
    Layout(
        name="amos22",
        title="AMOS22 (CT only)",
        page="https://zenodo.org/records/7262581",
        licence="CC BY 4.0",
        citation="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, NeurIPS 2022",
        looks_like="imagesTr, labelsTr, imagesVa, labelsVa with amos_0001.nii.gz (imagesTs has no labels)",
        parts=(
            _pair("Tr", r"amos_\d+", "training"),
            _pair("Va", r"amos_\d+", "validation"),
            _pair("Ts", r"amos_\d+", "testing"),
        ),
        cases=300,
        structures=_values(
            *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
            *("vena_cava", "pancreas", "adrenal_gland_right", "adrenal_gland_left", "duodenum", "bladder"),
            "prostate_uterus",
        ),
        left_out=(r"amos_0*(?:50[1-9]|5[1-9]\d|[6-9]\d\d)", "MRI (ids above 500)"),
        paper_key="amos",
        site="amos",
    ),
    Layout(
        name="btcv",
        title="BTCV (Beyond the Cranial Vault, abdomen)",
        page="https://www.synapse.org/Synapse:syn3193805",
        licence="CC BY 4.0, free account",
        citation="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015",
        looks_like="img/img0001.nii.gz and label/label0001.nii.gz in RawData/Training",
        parts=(
            Part(
                split="training",
                image=rf"(?:^|/)img(?P<id>00[0-5]\d){NIFTI}",
                label=rf"(?:^|/)label(?P<id>\d{{4}}){NIFTI}",
            ),
            Part(split="testing", image=rf"(?:^|/)img(?P<id>00[6-8]\d){NIFTI}"),
        ),
        cases=30,
        structures=_values(
            *("spleen", "kidney_right", "kidney_left", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
            *("vena_cava", "portal_vein", "pancreas", "adrenal_gland_right", "adrenal_gland_left"),
        ),
        paper_key="btcv",
    ),
    Layout(
        name="word",
        title="WORD",
        page="https://github.com/HiLab-git/WORD",
        licence="GPL 3.0, academic research only",
        citation="Luo et al., WORD, Medical Image Analysis 2022",
        looks_like="imagesTr, imagesVal, imagesTs and labelsTr, labelsVal, labelsTs with word_0001.nii.gz",
        parts=(
            _pair("Tr", r"word_\d+", "training"),
            _pair("Val", r"word_\d+", "validation"),
            _pair("Ts", r"word_\d+", "testing"),
        ),
        cases=150,
        structures=_values(
            *("liver", "spleen", "kidney_left", "kidney_right", "stomach", "gallbladder", "esophagus"),
            *("pancreas", "duodenum", "colon", "intestine", "adrenal_gland", "rectum", "bladder"),
            *("femur_left", "femur_right"),
        ),
        paper_key="word",
    ),
)
