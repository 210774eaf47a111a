"""Make the class vectors of a universal network from CLIP's text encoder (METHODS 4.1), as the MMDS paper has them.

    pip install transformers
    python tools/clip_embeddings.py --preset mmds -o clip_vit_b32.safetensors
    python tools/clip_embeddings.py --classes liver liver_tumor --model ~/clip-vit-base-patch32 -o two.safetensors

Writes one vector of norm 1 for each class, under its name, from the prompt "A computerized tomography of a {class}".
Needs the package transformers, which is no dependency of fedpartial, and the weights of CLIP ViT-B/32: --model names a
folder that holds them, or the model's name where they may be loaded from the hub. The length of the vectors (512) must
be what the preset's network names as ``embedding``. Without such a file vectors follow from the classes' names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fedpartial.errors import ConfigError
from fedpartial.presets import get_preset

MODEL = "openai/clip-vit-base-patch32"
PROMPT = "A computerized tomography of a {}"

Encode = Callable[[Sequence[str]], np.ndarray]
"""Prompts -> vectors (K, E)."""


def load_clip(model: str) -> Encode:
    """CLIP's text encoder. Raises ConfigError where the package or the weights are not there."""
    try:
        from transformers import CLIPModel, CLIPTokenizerFast
    except ImportError as error:
        raise _missing("the package transformers", error, "pip install transformers, then run this again.") from None
    try:
        network, tokenizer = CLIPModel.from_pretrained(model).eval(), CLIPTokenizerFast.from_pretrained(model)
    except (OSError, ValueError) as error:
        remedy = "Load the model where there is a network, copy its folder here, and name it with --model."
        raise _missing(f"the weights of {model}", error, remedy) from None
    return lambda prompts: _encoded(network, tokenizer(list(prompts), padding=True, return_tensors="pt"))


def _encoded(network, tokens) -> np.ndarray:
    """Text features before CLIP's own scaling; older releases of transformers return the tensor itself."""
    import torch

    with torch.inference_mode():
        found = network.get_text_features(**tokens)
    return getattr(found, "pooler_output", found).float().numpy()


def text_vectors(classes: Sequence[str], encode: Encode) -> dict[str, np.ndarray]:
    """The vector of each class, float32 of norm 1."""
    vectors = np.asarray(encode([prompt(name) for name in classes]), dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {name: vector.astype(np.float32) for name, vector in zip(classes, vectors, strict=True)}


def prompt(name: str) -> str:
    return PROMPT.format(name.replace("_", " "))


def write(path: Path, vectors: dict[str, np.ndarray], model: str) -> None:
    """A .safetensors file that says in its header what it was made with."""
    save_file(vectors, path, metadata={"model": model, "prompt": PROMPT})


def main(arguments: Sequence[str] | None = None, load: Callable[[str], Encode] = load_clip) -> int:
    """0, or 1 after one sentence on what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--preset", help="vectors of all classes of this preset")
    what.add_argument("--classes", nargs="+", help="names of classes")
    parser.add_argument("--model", default=MODEL, help="a folder, or a name on the hub (%(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the .safetensors file to write")
    given = parser.parse_args(arguments)
    try:
        classes = given.classes or get_preset(given.preset).label_space.classes
        vectors = text_vectors(classes, load(given.model))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    write(given.out, vectors, given.model)
    print(f"{given.out}: {len(vectors)} vectors of length {len(next(iter(vectors.values())))}")
    return 0


def _missing(what: str, error: Exception, remedy: str) -> ConfigError:
    return ConfigError(where="clip_embeddings", field=what, got=str(error), expected="to be there", remedy=remedy)


if __name__ == "__main__":
    sys.exit(main())
