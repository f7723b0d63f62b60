"""LoopbackHub: start, stop and steer a Hugging Face Hub on this machine."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cocktail_hub.testing.server import Handler, Hub, Request, Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# mypy: ignore-errors


class LoopbackHub:
    """A real HTTP Hub on 127.0.0.1."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        port: int = 0,
        xet: bool = False,
        lfs_threshold: int = 10 * 1024 * 1024,
        multipart_chunk: int | None = None,
    ) -> None:
        self.xet = xet
        self._port = port
        self._state = Hub(xet=xet, lfs_threshold=lfs_threshold, multipart_chunk=multipart_chunk)
        self._server: Server | None = None
        self.url = ""

    def start(self) -> LoopbackHub:
        """Listen; the address is in `url`."""
        handler = type("H", (Handler,), {"hub": self._state, "disable_nagle_algorithm": True})
        self._server = Server(("127.0.0.1", self._port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._state.cas_url = f"{self.url}/_cas"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> LoopbackHub:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def add_user(self, name: str, *, token: str, role: str = "write", orgs: Sequence[str] = ()) -> None:
        """Let `token` speak for `name`, who may write in their own namespace and in `orgs`."""
        self._state.add_user(name, token, role, orgs)

    @property
    def requests(self) -> list[Request]:
        """Everything asked since the last `clear_requests`."""
        return list(self._state.log)

    def clear_requests(self) -> None:
        """Forget the requests seen so far."""
        self._state.log.clear()

    def fail(self, match: str, *, status: int = 503, times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next `times` requests whose "METHOD path" matches with `status`."""
        self._state.faults.append({"match": match, "status": status, "times": times, "headers": headers})

    def clear_faults(self) -> None:
        """Drop the injected faults."""
        self._state.faults.clear()

    def set_gated(self, repo_id: str, gated: bool | str = True, *, repo_type: str = "model") -> None:
        """Restrict the files of a repo to its owner (True means "auto")."""
        self._state.repos[(repo_type, repo_id)].gated = "auto" if gated is True else gated

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables that point the HF libraries of a process at this Hub; set them before the first import."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})
