"""LoopbackHub: start, stop and steer a Hugging Face Hub on this machine."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, final

from cocktail_hub.testing.faults import Fault
from cocktail_hub.testing.server import Listener
from cocktail_hub.testing.site import LFS_THRESHOLD, Request, Settings, Site
from cocktail_hub.testing.users import User

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from cocktail_hub.testing.repos import Gate


@final
class LoopbackHub:
    """A Hugging Face Hub that the real clients talk to over HTTP, on 127.0.0.1.

    Repos, branches, tags, pull requests, private and gated repos, LFS (in parts, too), Xet, Range requests and the
    error headers behave as on the Hub. Large files come from another origin, under `/_cdn/`, in either mode:
    `hub.sent("GET /_cdn/")` is the number of bytes of weights that clients have downloaded.

    Args:
        root: folder that keeps repos and bodies, and is served again when reopened. None for a temporary one.
        port: to listen on; 0 for any free one.
        xet: serve large files over Xet, to clients that have hf_xet; otherwise over plain LFS.
        lfs_threshold: bytes above which a file is large, whatever its name.
        multipart_chunk: bytes per part for uploads over plain LFS; None to upload in one piece.

    Example:
        >>> with LoopbackHub() as hub:
        ...     hub.add_user("alice", token="hf_alice")
        ...     hub.url.startswith("http://127.0.0.1:")
        True

    huggingface_hub reads HF_ENDPOINT once, when it is first imported: start the Hub and set `environment()` before.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        port: int = 0,
        xet: bool = False,
        lfs_threshold: int = LFS_THRESHOLD,
        multipart_chunk: int | None = None,
    ) -> None:
        self._temporary = None if root else tempfile.TemporaryDirectory(prefix="loopback-hub-")
        folder = Path(self._temporary.name) if self._temporary else Path(root or "")
        self._site = Site(folder, Settings(xet=xet, lfs_threshold=lfs_threshold, multipart_chunk=multipart_chunk))
        self._port = port
        self._listeners: tuple[Listener, ...] = ()

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> LoopbackHub:
        """Listen, and return self.

        Raises:
            OSError: the port is taken.
            RuntimeError: it listens already.
        """
        if self._listeners:
            raise RuntimeError(f"This Hub is already listening at {self.url}")
        hub, cdn = self._listeners = Listener(self._site, self._port), Listener(self._site, 0)
        self._site.url, self._site.cdn_url = hub.url, _under_another_name(cdn.url)
        for listener in self._listeners:
            listener.start()
        return self

    def close(self) -> None:
        """Stop listening, and remove what is temporary. Nothing happens the second time."""
        for listener in self._listeners:
            listener.close()
        self._listeners = ()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> LoopbackHub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- who and where -----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address, such as http://127.0.0.1:35021: the HF_ENDPOINT of clients. Empty before the start."""
        return self._site.url

    @property
    def xet(self) -> bool:
        """Whether large files are served over Xet."""
        return self._site.settings.xet

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """Variables that point all HF libraries of a process at this Hub, to be set before they are imported.

        Args:
            home: a folder for the client's caches. A fresh one for every Hub: what hf_xet remembers of one that
                listened on the same port before makes it skip uploads.
            token: of the user to be; None for a stranger.
        """
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def add_user(self, name: str, *, token: str, role: str = "write", orgs: Sequence[str] = ()) -> None:
        """Let `token` speak for a user, who owns the namespace `name` and belongs to `orgs`.

        Args:
            name: of the user.
            token: any text; clients send it as it is.
            role: what the token is for, "read" or "write".
            orgs: organizations whose repos the user may read, and write with a write token.
        """
        with self._site.lock:
            self._site.users = {**self._site.users, token: User(name=name, role=role, orgs=tuple(orgs))}

    def set_gated(
        self, repo_id: str, gated: bool | Gate = True, *, repo_type: str = "model", admitted: Sequence[str] = ()
    ) -> None:
        """Restrict the files of a repo to members of its namespace and the `admitted` users, or open them.

        Args:
            repo_id: namespace/name.
            gated: True (the same as "auto"), "auto", "manual" or False.
            repo_type: "model", "dataset" or "space".
            admitted: names of users.

        Raises:
            KeyError: there is no such repo.
        """
        with self._site.lock:
            repo = self._site.repos[repo_type, repo_id]
            repo.gated = "auto" if gated is True else gated
            repo.admitted = tuple(admitted)
            repo.save()

    # -- what was asked ----------------------------------------------------------------------------------------------

    @property
    def requests(self) -> list[Request]:
        """What was answered since the last `clear_requests()`, in order."""
        return list(self._site.log)

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._site.log.clear()

    def sent(self, match: str = "") -> int:
        """Bytes sent in answer to the requests whose "METHOD path" matches a regular expression."""
        wanted = re.compile(match)
        return sum(seen.sent for seen in self.requests if wanted.search(f"{seen.method} {seen.path}"))

    # -- faults ------------------------------------------------------------------------------------------------------

    def fail(
        self,
        match: str,
        *,
        status: int = 503,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        cut_after: int | None = None,
        flip: int | None = None,
        body: bytes | None = None,
    ) -> None:
        """Spoil the next requests that match.

        Args:
            match: regular expression, searched in "METHOD path?query" (the path as sent: "/" in a revision is %2F).
            status: to answer instead.
            times: how many requests to spoil.
            headers: to send with `status`, such as Retry-After.
            cut_after: give the right answer instead, but drop the connection after so many bytes of its body.
            flip: give the right answer instead, with one bit of this byte of its body changed.
            body: to send with `status`, as a proxy or a portal would.

        Example:
            >>> hub = LoopbackHub()
            >>> hub.fail("POST .*/commit/", status=503, times=2)
            >>> hub.fail("GET /_cdn/", cut_after=1000)
            >>> hub.close()
        """
        fault = Fault(
            match=re.compile(match),
            status=status,
            times=times,
            headers=headers or {},
            cut_after=cut_after,
            flip=flip,
            body=body,
        )
        with self._site.lock:
            self._site.faults.append(fault)

    def clear_faults(self) -> None:
        """Spoil nothing any more."""
        with self._site.lock:
            self._site.faults.clear()


def _under_another_name(url: str) -> str:
    """The same address with the host called otherwise, where the system knows its other name.

    Clients tell a Hub from the storage that it redirects to by the host; huggingface_hub before 2.2 without the port.
    """
    try:
        known = socket.gethostbyname("localhost") == "127.0.0.1"
    except OSError:
        known = False
    return url.replace("127.0.0.1", "localhost") if known else url
