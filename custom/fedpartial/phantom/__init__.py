"""The embedded data set: a parametric abdominal CT of the portal-venous phase, made on the spot.

Every case is a function of (site, index, seed): ``profiles`` says what a site annotates and how its scanner
looks, ``surroundings`` and ``organs`` paint a patient from ``shapes`` in ``tissue``, ``scanner`` makes the voxel grid
and turns tissue into HU, ``case`` puts one case together and ``writer`` keeps the files.
"""

from fedpartial.phantom.case import PhantomCase, make_case
from fedpartial.phantom.profiles import PHANTOM_POOLS, PHANTOM_SITES, PhantomSite
from fedpartial.phantom.writer import VERSION, ensure_phantom, phantom_dir

__all__ = [
    "PHANTOM_POOLS",
    "PHANTOM_SITES",
    "VERSION",
    "PhantomCase",
    "PhantomSite",
    "ensure_phantom",
    "make_case",
    "phantom_dir",
]
