"""The tables of a comparison as texts, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedpartial.evaluation.comparison import Comparison
from fedpartial.evaluation.comparison_scores import DIGITS, best
from fedpartial.evaluation.comparison_sets import SETS
from fedpartial.evaluation.formats import UNDEFINED, class_label, duration, mean_sd, short_commit, size
from fedpartial.evaluation.significance import ALPHA, PairedTest

METRIC_LABELS = {"dice": "Dice", "hd95_mm": "HD95 (mm)"}
BY_WILCOXON, BY_MANN_WHITNEY = "*", "\N{DAGGER}"
TEST_COLUMNS = (
    "method a", "method b", "cases", "seeds", "a minus b", "rank-biserial",
    "Wilcoxon p", "Holm", "Mann-Whitney p", "Holm", "smallest p",
)  # fmt: skip
COST_COLUMNS = (
    "method", "seeds", "rounds \N{MULTIPLICATION SIGN} steps", "run", "training",
    "exchanged", "per round", "device", "preset", "commit",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cell:
    """strong: shown bold. A text cell is at the left, a number at the right."""

    text: str
    strong: bool = False
    number: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """caption: one sentence. head: column titles. classes: those that are a class, by position. rows: cells."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    classes: Mapping[int, str]
    text_columns: int = 1


def score_table(comparison: Comparison, which: str, metric: str) -> Table:
    """A row per method, a column for the mean over classes and one per class; the last row has numbers of cases."""
    scores = comparison.scores[which]
    names = scores["classes"]
    winners = {name: best(scores, metric, name) for name in (*names, None)}
    counts = {name: _counts(scores, metric, name) for name in names}
    rows = [
        (_text(method), _number(str(_num_seeds(comparison, method))), *_row(scores, metric, method, counts, winners))
        for method in _scored(comparison, which)
    ]
    rows.append((_text("cases"), _number(""), _number(""), *(_number(_range(counts[name])) for name in names)))
    return Table(
        caption=f"{METRIC_LABELS[metric]}: mean \N{PLUS-MINUS SIGN} sd over seeds of the mean over cases.",
        head=("method", "seeds", "mean", *(class_label(name) for name in names)),
        rows=tuple(rows),
        classes={i: name for i, name in enumerate(names, start=3)},
    )


def _scored(comparison: Comparison, which: str) -> list[str]:
    """The methods that this set has cases for."""
    return [method for method in comparison.methods if comparison.scores[which]["dice"][method]["num_classes"]]


def _row(scores: Mapping, metric: str, method: str, counts: Mapping, winners: Mapping) -> Iterator[Cell]:
    values = scores[metric][method]
    yield _number(mean_over_classes(scores, metric, method), strong=method in winners[None])
    for name in scores["classes"]:
        entry = values["classes"].get(name)
        shown = f" ({entry['n']})" if entry and len(counts[name]) > 1 else ""
        text = mean_sd(entry, DIGITS[metric]) + shown if entry else UNDEFINED
        yield _number(text, strong=method in winners[name])


def mean_over_classes(scores: Mapping, metric: str, method: str) -> str:
    """The macro mean, and of how many classes where that is not all of the set."""
    values, number = scores[metric][method], len(scores["classes"])
    text = mean_sd(values["macro"], DIGITS[metric])
    return text if values["num_classes"] in (0, number) else f"{text} ({values['num_classes']} of {number})"


def summary_table(comparison: Comparison) -> Table:
    """Means over classes: a row per method, for each set its Dice and its HD95."""
    pairs = [(which, metric) for which in comparison.scores for metric in METRIC_LABELS]
    winners = {pair: best(comparison.scores[pair[0]], pair[1], None) for pair in pairs}
    rows = [
        (
            _text(method),
            *(
                _number(mean_over_classes(comparison.scores[which], metric, method), strong=method in found)
                for (which, metric), found in winners.items()
            ),
        )
        for method in comparison.methods
    ]
    return Table(
        caption="Means over classes of each set: mean \N{PLUS-MINUS SIGN} sd over seeds.",
        head=("method", *(f"{SETS[which].label}: {METRIC_LABELS[metric]}" for which, metric in pairs)),
        rows=tuple(rows),
        classes={},
    )


def _counts(scores: Mapping, metric: str, name: str) -> set[int]:
    return {values["classes"][name]["n"] for values in scores[metric].values() if name in values["classes"]}


def _range(numbers: set[int]) -> str:
    if not numbers:
        return UNDEFINED
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _num_seeds(comparison: Comparison, method: str) -> int:
    return len(comparison.costs[method]["seeds"])


def difference_matrix(comparison: Comparison, which: str) -> Table:
    """Mean difference in Dice, row minus column, for each pair of methods."""
    differences = {}
    for test in comparison.tests[which]:
        marks = _marks(test)
        differences[test.a, test.b] = _number(f"{test.difference:+.3f}{marks}", strong=test.significant)
        differences[test.b, test.a] = _number(f"{-test.difference:+.3f}{marks}", strong=test.significant)
    methods = [m for m in comparison.methods if any(m in pair for pair in differences)]
    empty = _number(UNDEFINED)
    rows = [(_text(a), *(_number("") if a == b else differences.get((a, b), empty) for b in methods)) for a in methods]
    return Table(
        caption=f"Mean difference in Dice over {cases_of(comparison.tests[which])} cases, row minus column. "
        f"{BY_WILCOXON} Wilcoxon, {BY_MANN_WHITNEY} Mann-Whitney: p below {ALPHA} after Holm's correction over all "
        "pairs of this table.",
        head=("row minus column", *methods),
        rows=tuple(rows),
        classes={},
    )


def _marks(test: PairedTest) -> str:
    found = (test.significant, BY_WILCOXON), (test.mann_whitney_holm < ALPHA, BY_MANN_WHITNEY)
    return "".join(mark for given, mark in found if given)


def cases_of(tests: Sequence[PairedTest]) -> str:
    """The number of patients of these tests, or its range."""
    return _range({test.n for test in tests})


def pair_table(comparison: Comparison, which: str) -> Table:
    """Every test of a set."""
    rows = []
    for t in comparison.tests[which]:
        corrected = ((t.wilcoxon_p, t.wilcoxon_holm), (t.mann_whitney_p, t.mann_whitney_holm))
        values = [_number(text) for text in (str(t.n), str(t.seeds), f"{t.difference:+.3f}", f"{t.rank_biserial:+.2f}")]
        for p, holm in corrected:
            values += [_number(f"{p:.3g}"), _number(f"{holm:.3g}", strong=holm < ALPHA)]
        rows.append((_text(t.a), _text(t.b), *values, _number(f"{t.smallest_p:.3g}")))
    caption = "Every pair of methods. Holm: the p before it, corrected over all pairs of this table."
    return Table(caption=caption, head=TEST_COLUMNS, rows=tuple(rows), classes={}, text_columns=2)


def cost_table(comparison: Comparison) -> Table:
    """Time, traffic and settings of each method, means over its runs."""
    rows = []
    for method, cost in comparison.costs.items():
        times = (duration(cost["seconds"]), duration(cost["training_seconds"]))
        traffic = (size(cost["bytes_total"]), size(cost["bytes_per_round"]))
        facts = (_join(cost["devices"]), _join(cost["presets"]), _join(map(short_commit, cost["commits"])))
        budget = f"{_join(cost['rounds'])} \N{MULTIPLICATION SIGN} {_join(cost['local_steps'])}"
        budget += f" + {_join(cost['finetune_steps'])}" if any(cost["finetune_steps"]) else ""
        numbers = (_join(cost["seeds"]), budget, *times, *traffic)
        rows.append((_text(method), *map(_number, numbers), *map(_text, facts)))
    caption = (
        "Means over the runs of a method. Run: wall clock, without data preparation. Training: of the rounds, also "
        "without data preparation. Exchanged: sent and received by all sites in the rounds. Steps after a plus sign: "
        "fine-tuning or site adaptation."
    )
    return Table(caption=caption, head=COST_COLUMNS, rows=tuple(rows), classes={})


def markdown(table: Table) -> str:
    """The table in Markdown, with its caption below."""
    lines = [
        _line(map(_escape, table.head)),
        _line("---" if i < table.text_columns else "---:" for i in range(len(table.head))),
    ]
    lines += [_line(f"**{_escape(c.text)}**" if c.strong else _escape(c.text) for c in row) for row in table.rows]
    return "\n".join(lines) + f"\n\n{table.caption.replace(BY_WILCOXON, chr(92) + BY_WILCOXON)}\n"


def _line(texts) -> str:
    return "| " + " | ".join(texts) + " |"


def _escape(text: str) -> str:
    for mark in "\\|*_<`":
        text = text.replace(mark, f"\\{mark}")
    return text


def _join(values) -> str:
    return ", ".join(str(value) for value in values) or UNDEFINED


def _text(text: str) -> Cell:
    return Cell(text=text, number=False)


def _number(text: str, *, strong: bool = False) -> Cell:
    return Cell(text=text, strong=strong)
