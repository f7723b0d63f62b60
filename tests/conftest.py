"""A Hub on loopback for the whole test run.

huggingface_hub reads HF_ENDPOINT once, when it is first imported, so the server starts here, above every other import.
COCKTAIL_TEST_XET=1 runs the same tests over Xet instead of plain LFS.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import settings

from cocktail_hub.testing import LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Iterator

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A run in the background of a shell ignores Ctrl-C, and so would every program that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_HOME = Path(tempfile.mkdtemp(prefix="cocktail-tests-"))
_HUB = LoopbackHub(_HOME / "server", xet=os.environ.get("COCKTAIL_TEST_XET") == "1").start()
_HUB.add_user("alice", token="hf_alice", orgs=("acme",))
_HUB.add_user("bob", token="hf_bob")
_HUB.add_user("reader", token="hf_reader", role="read")

for _name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE"):
    os.environ.pop(_name, None)
os.environ.update(
    _HUB.environment(_HOME / "home"),
    COCKTAIL_HUB_CACHE=str(_HOME / "cocktail"),
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)


import trials

trials.stay_here()

settings.register_profile("quick", max_examples=20)
_ALL_WHOLE = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.whole\b", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """Let pass the one warning that the Hub client causes in its own upload code."""
    config.addinivalue_line(
        "filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave a file alone where none of its tests is wanted: its imports take longer than many tests."""
    if "not whole" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return True if _ALL_WHOLE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_finish() -> None:
    """Collecting garbage need not look at what is imported again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Stop the Hub and remove what it and the caches held."""
    _HUB.close()
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """The session's Hub, with an empty request log and, afterwards, no faults left."""
    _HUB.clear_requests()
    yield _HUB
    _HUB.clear_faults()


@pytest.fixture
def token() -> str:
    """A token that may write to `alice/...` and `acme/...`."""
    return "hf_alice"


@pytest.fixture
def made_up_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models be mixed whose tensors the class in their config.json does not have."""
    monkeypatch.setattr("cocktail_hub.evaluation.load_check.LoadCheck.wait", lambda _: ())


@pytest.fixture(scope="module")
def no_other_ray() -> Iterator[None]:
    """Keep other test runs from starting a Ray: a program that looks for a cluster on this machine would find it."""
    with FileLock(Path(tempfile.gettempdir()) / "cocktail-tests-ray.lock"):
        yield


@pytest.fixture(scope="module")
def ray(request: pytest.FixtureRequest, no_other_ray: None) -> Iterator[Any]:
    """A Ray of two workers, which this process is connected to."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    module = pytest.importorskip("ray", reason="needs cocktail-hub[ray]")
    module.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=False,
    )
    module.cloudpickle.register_pickle_by_value(request.module)  # workers cannot import a test
    yield module
    module.cloudpickle.unregister_pickle_by_value(request.module)
    module.shutdown()
