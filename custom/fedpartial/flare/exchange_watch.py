"""The exchange log in a FLARE job: exchange.json beside the models, and the end of a run in which nothing moved."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants

from fedpartial.flare.plan import job_root
from fedpartial.networks.split import is_shared
from fedpartial.server.exchange_log import ExchangeLog
from fedpartial.server.run_history import RunHistory
from fedpartial.training.plan import Plan

EXCHANGE_FILE = "exchange.json"


class ExchangeWatch:
    """Feeds an ExchangeLog from the recorder's events; every method returns the sentence that must end the run, if any.

    ``standalone``: the sites start from their own weights and nothing is aggregated.
    """

    def __init__(self, plan: Plan, history: RunHistory, *, standalone: bool):
        shared = partial(is_shared, exchange=plan.exchange)
        self.exchange = plan.exchange
        self.log = ExchangeLog(is_shared=shared, aggregates=not standalone, rounds=history.exchange, wire=plan.wire)

    def round_started(self, fl_ctx: FLContext) -> str | None:
        return self._told(self.log.start_round(fl_ctx.get_prop(AppConstants.CURRENT_ROUND), _model(fl_ctx)), fl_ctx)

    def update_received(
        self, site: str, update: Mapping, metrics: Mapping, bytes_up: int, fl_ctx: FLContext
    ) -> str | None:
        return self._told(self.log.add_update(site, update, metrics, bytes_up), fl_ctx)

    def round_done(self, fl_ctx: FLContext) -> str | None:
        fault = self.log.finish_round(_model(fl_ctx))
        self._write(fl_ctx)
        return fault

    def _told(self, fault: str | None, fl_ctx: FLContext) -> str | None:
        if fault:
            self._write(fl_ctx)
        return fault

    def _write(self, fl_ctx: FLContext) -> None:
        """Atomically, so that a reader never finds half a file."""
        path = Path(job_root(fl_ctx)) / EXCHANGE_FILE
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps({"exchange": self.exchange, **self.log.to_dict()}, indent=1), encoding="utf-8")
        os.replace(beside, path)


def _model(fl_ctx: FLContext) -> Mapping[str, np.ndarray]:
    return fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)[ModelLearnableKey.WEIGHTS]
