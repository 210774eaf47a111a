"""The names of everything that a site reports, once for the site, its filters and the server.

A method or a report that sends a new number adds its name here; a site that has not got this line keeps it back.
"""

from __future__ import annotations

import re

FACT_NUMBERS = ("setup_seconds", "num_training")
LOSSES = ("dice", "ce", "focal", "topk", "lovasz")
LOSS_PARTS = (*LOSSES, *(f"exclusion_{name}" for name in LOSSES), "condist", "proximal", "auxiliary", "bce")
NEEDED_NUMBERS = ("loss", "seconds", "optimizer_round", "bytes_down", "tensors_taken", *FACT_NUMBERS)
"""tensors_taken: how many tensors of the message the network holds bit for bit when a round's training starts."""
UPDATE_NUMBERS = (*NEEDED_NUMBERS, *LOSS_PARTS)
ANNOTATED = "annotated"
"""Class -> 1 for every class that some training case annotates, which aggregation by label goes by; never a count."""
COUNTS = ("bytes_down", "tensors_taken", "num_training")
NOT_NEGATIVE = ("seconds", "setup_seconds", *COUNTS)
VALIDATION = {"val_dice": "validation", "val_cases": "validation_cases", "val_found": "validation_found"}
"""By class: field of an update -> field of the final evaluation, where it stands by model."""
WORDS = {
    "device": ("cpu", "cuda", "mps", "xpu"),
    "precision": ("float32", "bfloat16", "float16"),
    "source": ("phantom", "site file"),
}
GLOBAL_MODELS = ("final", "best")
LOCAL = "local "
"""Before the site's name in the name of its local model."""
ADAPTED = "adapted "
"""Before the way in the name of a model that a site has adapted to its own data, or has of its own."""
ADAPTATION_WAYS = ("all", "encoder_frozen", "decoder_frozen")
SITE_OWN = ("local", "personalised")
"""The ways of a site that has trained alone: its own model, and that one before the global one (METHODS 4.6)."""
OWN_WAYS = (*ADAPTATION_WAYS, *SITE_OWN)
MODEL_NAME = re.compile(rf"{'|'.join(GLOBAL_MODELS)}|{ADAPTED}({'|'.join(OWN_WAYS)})|{LOCAL}[A-Za-z0-9_@.-]{{1,64}}")
LARGEST = 2**53
"""Beyond it a whole number is no number but a message."""


def is_number(value: object) -> bool:
    """A finite Python number of ordinary size."""
    return type(value) in (int, float) and abs(value) < LARGEST
