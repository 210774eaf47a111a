"""Federated 3D segmentation from partially labelled sites, as parts for NVIDIA FLARE jobs."""

__version__ = "0.1.0"
