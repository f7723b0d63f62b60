"""Listener: HTTP on loopback, from the socket to the routes and back."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from cocktail_hub.testing.body import RequestBody
from cocktail_hub.testing.call import Call
from cocktail_hub.testing.http_error import HttpError
from cocktail_hub.testing.reply import FilePart, Reply, error_reply, flipped
from cocktail_hub.testing.routes.table import ROUTES
from cocktail_hub.testing.site import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.testing.faults import Fault
    from cocktail_hub.testing.site import Site

_LOG = logging.getLogger(__name__)
_PATIENCE = 10.0
"""Seconds to wait at close for requests that are being answered."""


class Listener(ThreadingHTTPServer):
    """One port of the Hub; a thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, site: Site, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.site = site
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def start(self) -> None:
        """Answer from now on, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering, on kept-alive connections too, and wait for the threads."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._open:
                _shut(connection)
            self._changed.wait_for(lambda: not self._open, timeout=_PATIENCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, and hand it to a thread."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection and cross it off."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (http.server's signature)
        """A client that hangs up is nothing to report."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            _LOG.exception("The loopback Hub failed on a connection from %s", client_address)


class _Handler(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, *_: object) -> None:
        """Keep quiet: requests are in `LoopbackHub.requests`."""

    def _serve(self) -> None:
        site = self.server.site
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = RequestBody(cast("BinaryIO", self.rfile), headers)
        internal = self.path.startswith("/_self/")  # the Hub reads its own store: not a client's request
        fault = None if internal else _fault(site, f"{self.command} {self.path}")
        if fault and fault.body is not None:
            reply = Reply(status=fault.status, headers=fault.headers, body=fault.body)
        elif fault and fault.cut_after is None and fault.flip is None:
            reply = error_reply(HttpError(fault.status, "Injected fault", headers=fault.headers))
        else:
            reply = _answer(site, self.command, self.path, headers, body)
        if fault and fault.flip is not None and reply.size > fault.flip:
            reply = flipped(reply, fault.flip)
        body.drain()
        sent = 0 if self.command == "HEAD" else reply.size
        if fault and fault.cut_after is not None:
            sent = min(sent, max(0, fault.cut_after))
            self.close_connection = True
        if not internal:  # noted before the answer goes out: a client that has it finds it in the log
            site.log.append(
                Request(method=self.command, path=self.path, status=reply.status, headers=headers, sent=sent)
            )
        if not fault or (fault.cut_after or 0) >= 0:
            self._send(reply, sent, headers.get("x-amzn-trace-id", ""))

    def _send(self, reply: Reply, sent: int, request: str) -> None:
        self.send_response(reply.status)
        self.send_header("X-Request-Id", request)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(reply.size))
        self.end_headers()
        if not sent:
            return
        if isinstance(reply.body, FilePart):
            with reply.body.path.open("rb") as file:
                self.connection.sendfile(file, reply.body.start, sent)
        else:
            self.wfile.write(reply.body[:sent])

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 (http.server's names)


def _fault(site: Site, request: str) -> Fault | None:
    with site.lock:
        return next((fault for fault in site.faults if fault.strikes(request)), None)


def _answer(site: Site, method: str, target: str, headers: Mapping[str, str], body: RequestBody) -> Reply:
    """Find the route, and turn what it raises into an answer."""
    address = urlsplit(target)
    method = "GET" if method == "HEAD" else method
    try:
        for route in ROUTES:
            args = route.parts(method, address.path)
            if args is not None:
                query = parse_qs(address.query, keep_blank_values=True)
                call = Call(
                    site=site, method=method, path=address.path, args=args, query=query, headers=headers, body=body
                )
                return route.answer(call)
    except HttpError as error:
        return error_reply(error)
    except ConnectionError:
        raise
    except Exception as error:  # noqa: BLE001 (a bug in a route must not end the connection)
        # Not 500: clients repeat those for minutes (and hf_xet hangs), though a bug here will not go away.
        _LOG.exception("The loopback Hub failed at %s %s", method, target)
        return error_reply(HttpError(400, f"The loopback Hub failed: {error!r}"))
    return error_reply(HttpError(404, f"The loopback Hub has no route for {method} {address.path}"))


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed already
        connection.shutdown(socket.SHUT_RDWR)
