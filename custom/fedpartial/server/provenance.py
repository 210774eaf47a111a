"""Where a result comes from: versions of what computed it and the commit of this package."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import fedpartial

PACKAGES = ("nvflare", "torch", "monai", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, this package and what its numbers depend on."""
    found = {"python": platform.python_version(), "fedpartial": fedpartial.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def source_commit() -> str | None:
    """Short commit of the checkout this package runs from, "+" when it has changes; None when installed."""
    folder = Path(fedpartial.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
