"""TensorBoard curves, written by the server from the metrics of accepted updates; sites stream nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.file_utils import resolve_path_under_root
from nvflare.widgets.widget import Widget

from fedpartial.flare.plan import job_root, plan_of_server, site_name
from fedpartial.flare.weights import METRICS
from fedpartial.training.reported import LOSS_PARTS

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tb_events"
TRAIN_SCALARS = ("loss", *LOSS_PARTS)


class TensorBoardScalars(Widget):
    """Writes ``tb_events/<site>`` beside the server's app folder, where FLARE's TBAnalyticsReceiver writes.

    The step of a training value is the number of local steps at the end of its round; a validation Dice is that
    of the model the round started from.
    """

    def __init__(self, plan_id: str = "plan"):
        super().__init__()
        self.plan_id = plan_id
        self._writers: dict[str, SummaryWriter] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == AppEventType.AFTER_CONTRIBUTION_ACCEPT:
            self._update_received(fl_ctx)
        elif event_type == EventType.END_RUN:
            self._close()

    def _update_received(self, fl_ctx: FLContext) -> None:
        if not fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED):
            return
        metrics = from_shareable(fl_ctx.get_prop(AppConstants.TRAINING_RESULT)).get_meta_prop(METRICS)
        local_steps = plan_of_server(fl_ctx, self.plan_id).plan.local_steps
        writer = self._writer(site_name(fl_ctx.get_peer_context()), fl_ctx)
        for name, value, step in scalars(metrics, fl_ctx.get_prop(AppConstants.CURRENT_ROUND), local_steps):
            writer.add_scalar(name, value, step)
        writer.flush()

    def _writer(self, site: str, fl_ctx: FLContext) -> SummaryWriter:
        # TensorBoard costs a second at import, which only a server that writes curves has to pay.
        from torch.utils.tensorboard import SummaryWriter

        if site not in self._writers:
            folder = Path(job_root(fl_ctx)).parent / FOLDER
            folder.mkdir(exist_ok=True)
            self._writers[site] = SummaryWriter(resolve_path_under_root(str(folder), site, "site"))
        return self._writers[site]

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def scalars(metrics: Mapping, round_number: int, local_steps: int) -> Iterator[tuple[str, float, int]]:
    """(name, value, step) of everything one update reports; a withheld value is left out."""
    start = round_number * local_steps
    for name in TRAIN_SCALARS:
        if name in metrics:
            yield f"train/{name}", float(metrics[name]), start + local_steps
    for name, dice in metrics["val_dice"].items():
        yield f"val_dice/{name}", float(dice), start
