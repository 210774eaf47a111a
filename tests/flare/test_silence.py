"""Silent sites: watched from their first heartbeat, named once, heard again."""

from __future__ import annotations

import time
from contextlib import contextmanager

import pytest

from fedpartial.flare.silence import HEARTBEAT, SilentSites


@pytest.fixture
def sites() -> SilentSites:
    silent = SilentSites()
    silent.period = -1.0
    return silent


def test_a_site_is_named_once_until_it_is_heard_again(sites):
    sites.heard("liver", HEARTBEAT)
    assert sites.fallen_silent() == ["liver"]
    assert sites.fallen_silent() == []
    sites.heard("liver", HEARTBEAT)
    assert sites.fallen_silent() == ["liver"]


def test_a_simulated_site_which_sends_no_heartbeats_is_not_watched(sites):
    sites.heard("liver", "getTask")
    assert sites.fallen_silent() == []


def test_every_sign_of_life_counts_for_a_watched_site(sites):
    sites.period = 60.0
    sites.heard("liver", HEARTBEAT)
    before = sites._heard["liver"]
    sites.heard("liver", "taskCheck")
    assert sites._heard["liver"] > before
    assert sites.fallen_silent() == []


class Communicator:
    def __init__(self):
        self.active, self.reported = [], []

    def client_is_active(self, client_name, reason, fl_ctx):
        self.active.append((client_name, reason))

    def process_dead_client_report(self, client_name, fl_ctx):
        self.reported.append(client_name)


class Engine:
    @contextmanager
    def new_context(self):
        yield None


def test_signs_are_passed_on_and_silence_is_reported_while_somebody_waits(sites):
    communicator = Communicator()
    sites.listen(communicator)
    communicator.client_is_active("liver", HEARTBEAT, None)
    assert communicator.active == [("liver", HEARTBEAT)]
    with sites.watched(communicator, Engine()):
        deadline = time.monotonic() + 60
        while not communicator.reported and time.monotonic() < deadline:
            time.sleep(0.02)
    assert communicator.reported == ["liver"]
