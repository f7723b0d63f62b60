"""Functions on a real local Ray of two workers: their results, and what goes wrong there."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import pytest

from cocktail_hub.errors import MergeError
from cocktail_hub.merge.engine.ray_cluster import CONNECT_SECONDS, Demand, _call, joined

pytestmark = [
    pytest.mark.whole,
    pytest.mark.ray,
    pytest.mark.timeout(900),  # one file after the other has a Ray
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]


def _die(shared: None, item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _divide(shared: int, item: int) -> float:
    return shared / item


@pytest.mark.slow
def test_a_worker_that_dies_each_time_is_a_merge_error(ray: Any) -> None:
    with joined() as cluster, pytest.raises(MergeError, match="died 4 times over the same task"):
        list(cluster.run(_die, None, [0], Demand()))


def test_an_unexpected_error_of_a_worker_is_a_merge_error(ray: Any) -> None:
    with joined() as cluster, pytest.raises(MergeError, match=r"failed: ZeroDivisionError\('division by zero'\)"):
        list(cluster.run(_divide, 1, [0], Demand()))


def test_results_come_with_their_index(ray: Any) -> None:
    with joined() as cluster:
        assert sorted(cluster.run(_divide, 6, [1, 2, 3], Demand())) == [(0, 6.0), (1, 3.0), (2, 2.0)]
        assert cluster.at_once(Demand(cpus=1)) == 2
        assert cluster.cpus_per_task(4) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_an_unreachable_cluster_is_reported_within_seconds(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    pytest.importorskip("ray", reason="needs cocktail-hub[ray]")
    with socket.socket() as bound:  # but nobody listens
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address.format(port=bound.getsockname()[1]))
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        started = time.monotonic()
        with pytest.raises(MergeError, match=r"RAY_ADDRESS=.* cannot be reached"), joined():
            pass
    assert time.monotonic() - started < 2 * CONNECT_SECONDS


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(MergeError, match=r"0\.0\.1"):
        _call("0.0.1", _divide, 1, 1)
