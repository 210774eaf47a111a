"""The local models of a stage of MMDS as they arrive at the server, until enough of them are there, and later.

The task stays open while the server goes on with its work: FLARE's clients drop the result of a task that is over, and
a model that comes late must reach the store, for the next stage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext

from fedpartial.errors import ConfigError
from fedpartial.flare.site_executor import LEARN
from fedpartial.flare.site_tasks import SiteTasks
from fedpartial.flare.weights import METRICS, payload_bytes
from fedpartial.networks.universal import EMBEDDINGS
from fedpartial.networks.wire import from_wire
from fedpartial.server.metrics_check import MetricsRefused, check_update_metrics
from fedpartial.server.stage import DOWN, UP, Stage
from fedpartial.training.reported import LARGEST

LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Patience:
    """min_clients: models that have to come. enough: stop waiting ``grace`` seconds after so many; 0 waits for all.
    deadline: stop waiting after so many seconds; 0 for none. linger: wait so many seconds for late models when the rest
    of the stage is done. ConfigError for values that cannot be."""

    min_clients: int
    enough: int = 0
    grace: float = 0.0
    deadline: float = 0.0
    linger: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name in ("min_clients", "enough")
            if (type(value) is not int and (whole or type(value) is not float)) or not 0 <= value < math.inf:
                raise _wrong(name, value, f"a {'whole ' if whole else ''}number of at least 0")
        if 0 < self.enough < self.min_clients:
            expected = f"0, or at least min_clients ({self.min_clients}), without which nothing is distilled"
            raise _wrong("enough", self.enough, expected)


def _wrong(field: str, got: object, expected: str) -> ConfigError:
    remedy = "Correct it in config_fed_server.json; min_clients is --min-sites of 'fedpartial bundle'."
    return ConfigError(where="job", field=field, got=got, expected=expected, remedy=remedy)


class Uploads:
    """Asks the sites of a stage for their models and puts them into the store.

    uploaded: site -> version; answered: also those that failed.
    """

    def __init__(self, workflow: SiteTasks, stage: Stage, patience: Patience):
        self.workflow, self.stage, self.patience = workflow, stage, patience
        self.uploaded: dict[str, int] = {}
        self.answered: set[str] = set()

    @property
    def enough_came(self) -> bool:
        return len(self.uploaded) >= max(self.patience.min_clients, 1)

    def collect(self, stop: Callable[[], bool], fl_ctx: FLContext) -> None:
        """Ask every living site, and return when there is no more to wait for; later answers are stored too."""
        workflow = self.workflow
        vectors = {f"{EMBEDDINGS}{name}": vector for name, vector in self.stage.embeddings.items()}
        data = DXO(data_kind=DataKind.WEIGHTS, data=vectors).to_shareable()
        workflow.plan.attach(data)
        asked = workflow.living()
        for client in asked:
            self.stage.sent(client.name, LEARN, DOWN, payload_bytes(vectors))
        self._task = Task(name=LEARN, data=data, result_received_cb=self._received)
        self._asked = [client.name for client in asked]
        with workflow.watched():
            workflow.broadcast(self._task, fl_ctx, targets=asked, min_responses=len(asked))
            self._wait(stop)

    def wait_for_late(self, stop: Callable[[], bool]) -> None:
        """When all else is done: give sites that are still training the time that the job allows."""
        until = time.monotonic() + self.patience.linger
        with self.workflow.watched():
            while not stop() and not self._over and time.monotonic() < until:
                time.sleep(LOOK_SECONDS)

    @property
    def _over(self) -> bool:
        """Whether nothing more can come: all have answered or are gone, or FLARE has ended the task."""
        settled = all(site in self.answered or self.workflow.is_gone(site) for site in self._asked)
        return settled or self._task.completion_status is not None

    def _wait(self, stop: Callable[[], bool]) -> None:
        started, patience, enough_since = time.monotonic(), self.patience, None
        while not stop() and not self._over:
            now = time.monotonic()
            if patience.deadline and now - started >= patience.deadline:
                return
            if patience.enough and len(self.uploaded) >= patience.enough:
                enough_since = enough_since or now
                if now - enough_since >= patience.grace:
                    return
            time.sleep(LOOK_SECONDS)

    def missing(self, sites: list[str]) -> dict[str, str]:
        """Why a site's model is not there, by site."""
        failures = self.workflow.recorder.failures
        other = {site: "gone" if self.workflow.is_gone(site) else "it has not finished" for site in sites}
        return {site: failures.get(site, other[site]) for site in sites if site not in self.uploaded}

    def _received(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Also while the server distils: then the model waits in the store for the next stage."""
        site, result = client_task.client.name, client_task.result
        try:
            if result.get_return_code() == ReturnCode.OK:
                self._store(site, from_shareable(result), fl_ctx)
            else:
                reason = self.workflow.recorder.failures.setdefault(site, result.get_return_code())
                self.workflow.log_error(fl_ctx, f"no model of {site}: {reason}")
        except (ValueError, OSError, ArithmeticError, RuntimeError) as refusal:
            # ValueError: refused here, or FLARE's own; RuntimeError: a full disk (NoSpaceLeft), or torch's own.
            # What is not caught here would end the task for all sites.
            self.workflow.recorder.note_failure(site, str(refusal), fl_ctx)
        finally:
            self.answered.add(site)

    def _store(self, site: str, dxo: DXO, fl_ctx: FLContext) -> None:
        recorder = self.workflow.recorder
        metrics, steps = dxo.get_meta_prop(METRICS), dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)
        check_update_metrics(site, metrics, self.stage.plan.config.label_space.classes)
        if dxo.data_kind != DataKind.WEIGHTS or type(steps) is not int or not 0 <= steps < LARGEST:
            raise MetricsRefused(f"model of {site} refused: got {dxo.data_kind}, steps {steps!r:.40}")
        known = {entry.version for entry in self.stage.store.history(site)}
        entry, size = self.stage.accept(site, self._unpacked(dxo.data), steps, metrics), payload_bytes(dxo.data)
        new_steps = 0 if entry.version in known else steps
        self.stage.sent(site, LEARN, UP, size)
        self.uploaded[site] = entry.version
        recorder.history.add_update(site, metrics, size)
        recorder.progress.write(
            "model", site=site, version=entry.version, steps=new_steps, loss=metrics["loss"], bytes_up=size
        )
        workflow_says = f"{site}: version {entry.version} of its model is stored ({', '.join(entry.classes)})"
        self.workflow.log_info(fl_ctx, workflow_says)

    def _unpacked(self, model: object) -> object:
        """A model in single precision; half precision that was not asked for is the store's to refuse."""
        asked = self.stage.plan.wire == "float16" and isinstance(model, Mapping)
        return from_wire(model) if asked else model
