"""``fedpartial export``: a model in formats that other programs read, each compared with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedpartial.cli.reply import FAILED, SUCCESS, Reply
from fedpartial.evaluation.formats import size

if TYPE_CHECKING:
    from fedpartial.export.exporting import Exported
    from fedpartial.export.masks import Masks

DEPRECATED = "TorchScript is deprecated by PyTorch; torch-export is its successor."


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line of ``fedpartial export``."""

    model: Path
    out: Path
    format: str
    check: Path | None = None
    force: bool = False


def run_export(options: Options, reply: Reply) -> int:
    """The whole command; returns its exit code."""
    from fedpartial.export.exporting import check_out, formats_of, write_description
    from fedpartial.export.formats import check_installed
    from fedpartial.export.source import Source

    formats = formats_of(options.format)
    for given in formats:
        check_installed(given.needs, given.name)
    check_out(options.out, formats, force=options.force)
    source = Source(options.model)
    checked = None if options.check is None else _checked(options, reply)
    if options.format == "torchscript":
        reply.warn(DEPRECATED)
    exported, masks = _export_all(options, source, formats, checked, reply)
    if any(one.problem is None for one in exported):
        description = write_description(source, exported, options.out)
        reply.add(description=description.absolute())
    _show(exported, masks, options.out, reply)
    return _code(exported, masks, reply)


def _checked(options: Options, reply: Reply):
    from fedpartial.export.masks import Checked

    with reply.console.status(f"segmenting {options.check.name} with the model"):
        return Checked(options.model, options.check)


def _export_all(options: Options, source, formats: Sequence, checked, reply: Reply) -> tuple[list, dict]:
    """What each format became, and by format the label maps of the image to check."""
    from rich.progress import track

    from fedpartial.export.exporting import export_model
    from fedpartial.export.verification import Reference

    reference, exported, masks = Reference(source), [], {}
    for given in track(formats, description="exporting", console=reply.console, transient=True):
        reply.say(f"{given.name}: making it, loading it again, comparing it with the model")
        one = export_model(source, reference, given, options.out)
        exported.append(one)
        if checked is not None and one.problem is None:
            masks[one.format] = checked.compare(one)
    return exported, masks


def _show(exported: Sequence[Exported], masks: dict[str, Masks], out: Path, reply: Reply) -> None:
    from rich.table import Table

    from fedpartial.export.exporting import DESCRIPTION

    table = Table(box=None)
    for heading in ("format", "file", "size", "images at a time", "largest difference", *(["label map"] * bool(masks))):
        table.add_column(heading, overflow="fold")
    for one in exported:
        if one.problem is None:
            cells = [one.format, one.path.name, size(one.num_bytes), str(one.batch)]
            table.add_row(*cells, f"{one.agreement.max_difference:.1e}", *_mask_cell(masks.get(one.format)))
    if table.row_count:
        reply.console.print(table)
        reply.say(f"Written to {out}; {DESCRIPTION} there says what goes in and what comes out.")
    reply.add(files=[_content(one, masks.get(one.format)) for one in exported])


def _mask_cell(masks: Masks | None) -> list[str]:
    if masks is None:
        return []
    return [f"{masks.num_different} of {masks.num_foreground} foreground voxels differ"]


def _content(one: Exported, masks: Masks | None) -> dict:
    return {**asdict(one), "path": one.path.absolute(), "masks": None if masks is None else asdict(masks)}


def _code(exported: Sequence[Exported], masks: dict[str, Masks], reply: Reply) -> int:
    """FAILED where a format could not be written or segments otherwise; says which."""
    problems = [f"{one.format}: not written. {one.problem}" for one in exported if one.problem is not None]
    problems += [f"{name}: its label map differs from the model's" for name, found in masks.items() if not found.good]
    reply.fail(*problems)
    return FAILED if problems else SUCCESS
