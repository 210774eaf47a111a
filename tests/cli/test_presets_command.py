"""fedpartial presets: every preset with the names that a site file may use."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from fedpartial.cli.main import app
from fedpartial.presets import PRESETS


def test_every_preset_is_shown_with_its_classes():
    done = CliRunner().invoke(app, ["presets"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert all(name in done.output for name in PRESETS)
    assert "kidney_right, kidney_left" in done.output
    assert "120 x 1000" in done.output


def test_scripts_get_the_same():
    done = CliRunner().invoke(app, ["presets", "--json"])
    found = json.loads(done.stdout)["presets"]
    assert {name: tuple(content["classes"]) for name, content in found.items()} == {
        name: preset.label_space.classes for name, preset in PRESETS.items()
    }
