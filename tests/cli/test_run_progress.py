"""What a person sees of a run: one line per round and site, phases, and no control characters in a file."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from fedpartial.cli import progress_view
from fedpartial.cli.progress_view import ProgressView
from fedpartial.cli.tail import Tail

RECORDED = """
{"event": "plan", "time": 1.0, "sites": 2, "job": "condistfl", "num_rounds": 12, "local_steps": 25, "seed": 0}
{"event": "update", "time": 9.6, "round": 1, "site": "liver", "loss": 1.8259, "val_dice": null, "seconds": 41.2,\
 "bytes_up": 1403808, "bytes_down": 1403808, "remaining_seconds": 978.0}
{"event": "update", "time": 9.7, "round": 1, "site": "spleen", "loss": 1.3441, "val_dice": null, "seconds": 45.9,\
 "bytes_up": 1403808, "bytes_down": 1403808, "remaining_seconds": 505.0}
{"event": "round", "time": 9.9, "round": 1, "seconds": 47.4, "previous_val_dice": null}
{"event": "update", "time": 19.6, "round": 2, "site": "spleen", "loss": 0.9, "val_dice": 0.53125, "seconds": 120.0,\
 "bytes_up": 1403808, "bytes_down": 1403808, "remaining_seconds": null}
{"event": "round", "time": 19.9, "round": 2, "seconds": 52.0, "previous_val_dice": 0.4321}
{"event": "something new", "time": 20.0}
{"event": "phase", "time": 20.02, "name": "fine-tuning"}
{"event": "tuned", "time": 20.04, "site": "spleen", "loss": 0.125}
{"event": "phase", "time": 20.06, "name": "collecting heads"}
{"event": "heads", "time": 20.08, "site": "spleen", "bytes_up": 13676}
{"event": "phase", "time": 20.1, "name": "final evaluation"}
{"event": "failure", "time": 20.2, "site": "liver", "reason": "secret"}
{"event": "scored", "time": 20.8, "site": "spleen"}
{"event": "phase", "time": 20.9, "name": "external set"}
{"event": "report", "time": 21.0, "path": "/report.html"}
"""
EXPECTED = [
    "FLARE runs; preparing data at liver, spleen",
    "round  1/12  liver   loss  1.826  Dice before    -      41 s  about 16 min of training left",
    "round  1/12  spleen  loss  1.344  Dice before    -      46 s  about 8 min of training left",
    "round  1/12  done in 47 s",
    "round  2/12  spleen  loss  0.900  Dice before  0.531   2 min",
    "round  2/12  done in 52 s; mean Dice of the model before it 0.432",
    "fine-tuning",
    "  spleen has tuned its heads, loss 0.125",
    "collecting heads",
    "  spleen has given its heads, 13.7 kB",
    "final evaluation",
    "  liver reports a failure",
    "  spleen has scored the models",
    "report, with the external set where there is one",
]


def shown(show, *, terminal: bool = False, verbose: bool = False) -> str:
    file = StringIO()
    with ProgressView(
        Console(file=file, width=40, force_terminal=terminal), ("liver", "spleen"), verbose=verbose
    ) as view:
        show(view)
    return file.getvalue()


def show_recorded(view: ProgressView) -> None:
    for line in RECORDED.strip().splitlines():
        view.event(json.loads(line))


def test_a_recorded_run_gives_one_line_per_round_and_site():
    assert shown(show_recorded).splitlines() == EXPECTED


def test_without_a_terminal_there_is_no_control_character_and_no_wrapping():
    text = shown(show_recorded)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.count("\n") == len(EXPECTED)


def test_a_terminal_shows_the_same_lines_and_what_happens_now():
    text = shown(show_recorded, terminal=True)
    assert all(line in text for line in EXPECTED)
    assert "\x1b[" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2026-11-21 08:46:29,919 - INFO - liver: prepared case 3 of 24", "  liver: prepared case 3 of 24"),
        ("2026-11-21 08:46:29,919 - INFO - liver: phantom case 1 of 24", "  liver: phantom case 1 of 24"),
        (
            "2026-11-21 08:46:00,547 - INFO - hospital-1: round 1/3 step 7/25 loss 1.826",
            "  hospital-1: round 1/3 step 7/25 loss 1.826",
        ),
        ("2026-11-21 08:46:00,640 - INFO - round 1/1 liver: loss 1.826, 4 s; about 14 s left", None),
        ("2026-11-21 08:46:00,640 - INFO - Contribution from liver ACCEPTED", None),
    ],
)
def test_a_site_that_is_busy_for_long_says_how_far_it_is(monkeypatch, line, said):
    monkeypatch.setattr(progress_view, "SECONDS_BETWEEN_LINES", -1.0)
    assert shown(lambda view: view.log_line(line)) == ("" if said is None else f"{said}\n")


def test_but_not_all_the_time():
    line = "2026-11-21 08:46:29,919 - INFO - liver: prepared case 3 of 24"
    assert shown(lambda view: [view.log_line(line) for _ in range(5)]) == ""


def test_verbose_shows_flares_log_as_it_is():
    line = "2026-11-21 - INFO - [bold]not markup[/bold] liver: prepared case 3 of 24"
    assert shown(lambda view: view.log_line(line), verbose=True) == f"{line}\n"


def test_a_growing_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "log"
    tail = Tail(path)
    assert tail.lines() == []
    path.write_bytes(b"one\ntw")
    assert tail.lines() == ["one"]
    assert tail.lines() == []
    with path.open("ab") as file:
        file.write("o\nthr\u00e9".encode()[:-1])
    assert tail.lines() == ["two"]
    with path.open("ab") as file:
        file.write(b"\xa9e\n\xff\n")
    assert tail.lines() == ["thr\u00e9e", "\ufffd"]
