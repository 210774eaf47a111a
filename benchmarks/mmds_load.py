"""What MMDS costs by stage, beside FedAvg with the same sites: the paper's figure 4 from measured numbers.

    python benchmarks/mmds_load.py HOME/store/five_stages --fedavg runs/stage1 runs/stage2 ... -o loads

STORE is the folder of a federation, with the ledger of its stages; after --fedavg one run folder or comparison run for
each stage, in their order, with the job and the report that 'fedpartial run' leaves. Writes loads.md and loads.png, and
prints both readings of the paper's "5,000 times" (METHODS 4.7). FedAvg's bytes are those of its rounds: its last
evaluation, in which every site gets the final model once more, is not in them. An epoch of a site has as many steps
under FedAvg as the ledger says it has under MMDS, so both need the same batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from published_table import markdown

from fedpartial.cli.json_file import read_json
from fedpartial.evaluation.load_figure import draw_loads
from fedpartial.evaluation.report import read_report
from fedpartial.evaluation.stage_loads import (
    HEAD,
    MMDS,
    SUMMED,
    StageLoad,
    cumulated,
    fedavg_load,
    readings,
    rows,
)
from fedpartial.server.ledger import LEDGER, Ledger, StageSummary

SERVER = "config_fed_server.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder of a federation in a model store")
    parser.add_argument("--fedavg", type=Path, nargs="+", required=True, metavar="RUN", help="a run for each stage")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for loads.md and loads.png")
    given = parser.parse_args()
    loads, rounds = all_loads(given.store, given.fedavg)
    given.out.mkdir(parents=True, exist_ok=True)
    text = page(loads, rounds)
    (given.out / "loads.md").write_text(text, encoding="utf-8")
    (given.out / "loads.png").write_bytes(draw_loads(loads))
    print(text)


def all_loads(store: Path, runs: Sequence[Path]) -> tuple[list[StageLoad], int]:
    """The stages of both methods, and FedAvg's rounds in each of them. Jobs that only score are no stages."""
    summary = [stage for stage in Ledger(store / LEDGER).summary() if stage.alone.all_sites.epochs]
    if len(summary) != len(runs):
        raise SystemExit(f"{store}: {len(summary)} stages in the ledger, and {len(runs)} runs of FedAvg")
    reports = [read_report(run / "report.json") for run in runs]
    if len(lengths := {len(report["rounds"]) for report in reports}) > 1:
        raise SystemExit(f"runs of FedAvg with different numbers of rounds: {sorted(lengths)}")
    by_step = epochs_by_step(summary)
    fedavg = [
        fedavg_load(stage.stage, report, local_steps(run), by_step)
        for stage, report, run in zip(summary, reports, runs, strict=True)
    ]
    return [*ledger_loads(summary), *fedavg], lengths.pop()


def ledger_loads(summary: Iterable[StageSummary]) -> list[StageLoad]:
    """The stages of a store's ledger (``Ledger.summary()``)."""
    loads = []
    for stage in summary:
        sites, server = stage.alone.all_sites, stage.alone.server
        sent = {name: getattr(sites, name) for name in SUMMED if name.startswith(("messages", "bytes"))}
        work = {"epochs": sites.epochs, "server_epochs": server.epochs}
        loads.append(StageLoad(stage=stage.stage, method=MMDS, **sent, **work))
    return loads


def epochs_by_step(summary: Iterable[StageSummary]) -> dict[str, float]:
    """Site -> what share of an epoch one of its steps is, from the ledger; equal batches make equal epochs."""
    found = {}
    for stage in summary:
        found |= {site: load.epochs / load.steps for site, load in stage.alone.sites.items() if load.steps}
    return found


def local_steps(run: Path) -> int:
    """Of a site in a round, from the job that ran."""
    (config,) = (run / "job").rglob(SERVER)
    return int(read_json(config)["local_steps"])


def page(loads: Sequence[StageLoad], rounds: int) -> str:
    """Both tables and the readings, as Markdown."""
    alone, together = (markdown(HEAD, rows(sorted_by_stage(given))) for given in (loads, cumulated(loads)))
    said = "\n".join(f"- {sentence}" for sentence in readings(loads, rounds))
    return f"Each stage:\n\n{alone}\n\nWith all stages before it:\n\n{together}\n\n{said}\n"


def sorted_by_stage(loads: Sequence[StageLoad]) -> list[StageLoad]:
    """Stage by stage, so that the methods stand one under the other."""
    stages = list(dict.fromkeys(load.stage for load in loads))
    return sorted(loads, key=lambda load: stages.index(load.stage))


if __name__ == "__main__":
    main()
