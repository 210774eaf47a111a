"""Everything that a user has to correct, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

from fedpartial.errors import ConfigError


class Refused(Exception):
    """What the user has to correct; nothing was started and nothing but temporary files written."""

    def __init__(self, faults: Sequence[ConfigError]):
        super().__init__("\n".join(map(str, faults)))
        self.faults = list(faults)
