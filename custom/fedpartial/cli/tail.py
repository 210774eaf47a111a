"""Follow a growing file line by line."""

from __future__ import annotations

from pathlib import Path


class Tail:
    """New complete lines of a growing file."""

    def __init__(self, path: Path):
        self.path, self._position, self._rest = path, 0, b""

    def lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        self._position += len(new)
        *complete, self._rest = (self._rest + new).split(b"\n")
        return [line.decode(errors="replace") for line in complete]
