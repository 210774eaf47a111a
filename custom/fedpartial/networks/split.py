"""Which tensors of a network travel and which stay at their site (SegViz, METHODS 2.1-2.2).

A network with private heads is split by name: ``heads.*`` is the task block of a site, everything else the trunk
(the papers' representation block). FedBN (Li et al., ICLR 2021) keeps the trunk's normalisation at the site as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from fedpartial.networks.canonical import is_statistic

Exchange = Literal["all", "trunk", "trunk_without_statistics", "trunk_without_norms"]
"""What a site exchanges: the whole network (one head with all classes), or the trunk of a network with private heads.

"trunk" averages parameters and running statistics of BatchNorm too; "trunk_without_statistics" leaves the statistics at
the site; "trunk_without_norms" is FedBN: neither a parameter nor a statistic of a normalisation layer travels.
"""

HEADS = "heads."
EMBEDDINGS = "embeddings."
"""Of the universal network: before the name of a class, whose frozen vector the tensor is."""
NORM = ".adn.N."
"""In the names that MONAI gives the normalisation layers of its residual U-Net."""


def has_private_heads(exchange: Exchange) -> bool:
    return exchange != "all"


def is_head(name: str) -> bool:
    return name.startswith(HEADS)


def is_norm(name: str) -> bool:
    """Whether a tensor is a parameter or a statistic of a normalisation layer."""
    return is_statistic(name) or NORM in name


def is_shared(name: str, exchange: Exchange) -> bool:
    """Whether a tensor travels between server and sites during training."""
    if exchange == "all":
        return True
    if is_head(name):
        return False
    if exchange == "trunk_without_norms":
        return not is_norm(name)
    return exchange == "trunk" or not is_statistic(name)


def head_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The classes of the heads among these tensors, in the order of the names."""
    return tuple(dict.fromkeys(name.removeprefix(HEADS).split(".")[0] for name in names if is_head(name)))
