"""The command line, in a process of its own: also where memory is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no Ctrl-C to send to another process"),
]

_MEGABYTE = 1024 * 1024
_SIZE = 96 * _MEGABYTE


@contextmanager
def _served(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Run the command; yield its process and the variables that it printed."""
    command = [sys.executable, "-m", "cocktail_hub.testing", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout.readline, "")
        exports = list(iter(lambda: next(lines), "# You are alice there. Ctrl-C stops the Hub.\n"))
        assert all(line.startswith("export ") for line in exports)
        try:
            yield process, dict(line.strip().removeprefix("export ").split("=", 1) for line in exports)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)


def _run(code: str, variables: dict[str, str]) -> str:
    command, environment = [sys.executable, "-c", code], {**os.environ, **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("options", [(), ("--xet",)])
def test_it_serves_until_ctrl_c(tmp_path: Path, options: tuple[str, ...]) -> None:
    with _served("--root", str(tmp_path / "root"), *options) as (process, variables):
        assert variables["HF_TOKEN"] == "hf_alice"
        assert Path(variables["HF_HOME"]).is_dir()
        code = "import huggingface_hub as hf; hf.create_repo('r'); hf.upload_file(path_or_fileobj=b'x', path_in_repo="
        assert _run(f"{code}'m.bin', repo_id='alice/r'); print(hf.list_repo_files('alice/r'))", variables) == (
            "['.gitattributes', 'm.bin']\n"
        )
    assert (process.returncode, process.stderr.read() if not process.stderr.closed else "") == (0, "")
    assert not Path(variables["HF_HOME"]).exists()
    assert (tmp_path / "root" / "repos" / "model" / "alice" / "r" / "repo.json").is_file()


_ROUND_TRIP = f"""
import hashlib, os, huggingface_hub as hf
block = os.urandom(1 << 20)
with open("big.bin", "wb") as file:
    for number in range({_SIZE} >> 20):
        file.write(number.to_bytes(8, "little") + block[8:])
sha = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()
hf.create_repo("r")
hf.upload_file(path_or_fileobj="big.bin", path_in_repo="big.bin", repo_id="alice/r")
print(sha("big.bin") == sha(hf.hf_hub_download("alice/r", "big.bin")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory of another process: Linux only")
@pytest.mark.parametrize("options", [(), ("--xet",)])
def test_a_large_file_passes_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    with _served(*options) as (process, variables):
        path = str(Path(__file__).parents[2])
        assert _run(_ROUND_TRIP, {**variables, "PYTHONPATH": path}) == "True\n"
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak < 60, f"{peak} MB for a file of {_SIZE // _MEGABYTE} MB"
