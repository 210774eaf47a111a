"""``--set NAME=VALUE``: values of the server's configuration that have no option of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from fedpartial.errors import ConfigError

OPTIONS = {
    "preset": "--preset",
    "num_rounds": "--rounds",
    "local_steps": "--local-steps",
    "finetune_steps": "--finetune-steps",
    "seed": "--seed",
    "min_clients": "--sites, or --min-sites of 'fedpartial bundle'",
}
"""Variables with an option of their own, which checks them or changes more than the variable."""
VARIABLE = re.compile(r"[a-z][a-z0-9_]*")


def option_for(name: str) -> str:
    """What to type to give a variable a value."""
    return OPTIONS.get(name, f"--set {name}=VALUE")


def parse_settings(texts: Sequence[str]) -> dict[str, object]:
    """["pretrain_rounds=0"] as values by name; a value is JSON, or text where it is no JSON.

    ConfigError for a name that comes twice or has an option of its own.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not VARIABLE.fullmatch(name) or name in found:
            raise setting_error(text, "NAME=VALUE, each name once", "For example --set pretrain_rounds=0.")
        if name in OPTIONS:
            raise setting_error(text, "the name of a variable that has no option of its own", f"Use {OPTIONS[name]}.")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def setting_error(got: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(where="--set", field="set", got=got, expected=expected, remedy=remedy)
