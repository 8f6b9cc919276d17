"""Keys and texts that the processes of a run share, over HTTP: process 0 serves them, the others put and get.

`jax.distributed` has such a store too, but no process can use it before all of them have registered, and its clients
end their process when the service fails. Here a host may never come, die or be cut off, and the others go on.
"""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# The most seconds for which the server holds back an answer until a key is set.
HOLD = 5.0
# Seconds for a connection and an answer, beyond the time for which it is held back.
ANSWER = 10.0


class Gone(Exception):  # noqa: N818 - as `signals.Stopped`
    """Process 0 cannot be reached. `refused`: its host answers that the process no longer listens."""

    def __init__(self, words: str, *, refused: bool) -> None:
        super().__init__(words)
        self.refused = refused


class Store:
    """Key -> value; the values are JSON. All methods can be called from several threads."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # Key -> notified when it is set. Without it, each of a thousand results would wake a thousand threads.
        self._keys: dict[str, threading.Condition] = {}
        # Process -> when its last request came, in seconds of `time.monotonic`.
        self.seen: dict[int, float] = {}

    def put(self, values: Mapping[str, Any]) -> None:
        """Set keys."""
        with self._lock:
            self._values.update(values)
            for key in values:
                if key in self._keys:
                    self._keys.pop(key).notify_all()
            self._changed.notify_all()

    def get(self, key: str, hold: float = 0.0) -> Any:
        """The value of a key, for which this waits `hold` seconds; None if it is not set."""
        with self._lock:
            if hold > 0 and key not in self._values:
                self._keys.setdefault(key, threading.Condition(self._lock)).wait_for(lambda: key in self._values, hold)
            return self._values.get(key)

    def wait(self, seconds: float) -> None:
        """Wait until any key is set, at most `seconds`."""
        with self._changed:
            self._changed.wait(seconds)


class Server:
    """Serves a store at a port of all addresses of this host until `close`; an OSError if the port is taken."""

    def __init__(self, store: Store, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            """Answers {"from": process, "put": {key: value}, "get": key, "hold": seconds} with the value of the key."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                store.seen[asked["from"]] = time.monotonic()
                store.put(asked["put"])
                value = store.get(asked["get"], min(asked["hold"], HOLD)) if asked["get"] else None
                body = json.dumps(value).encode()
                with contextlib.suppress(OSError):  # the process has ended meanwhile
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                store.seen[asked["from"]] = time.monotonic()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        # All processes may come in the same second.
        backlog = {"request_queue_size": 1024, "daemon_threads": True, "address_family": _family()}
        kind = type("Quiet", (ThreadingHTTPServer,), backlog)
        self._server = kind(("", port), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _family() -> socket.AddressFamily:
    return socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


class Client:
    """Puts and gets for one process."""

    def __init__(self, host: str, port: int, process: int) -> None:
        self.host, self.port, self.process = host, port, process

    def request(self, put: Mapping[str, Any] | None = None, get: str = "", hold: float = 0.0) -> Any:
        """Set keys, and return the value of the key `get` (None if it is not set within `hold` seconds).

        Raises:
            Gone: no answer.
        """
        body = json.dumps({"from": self.process, "put": put or {}, "get": get, "hold": hold})
        # No proxy: the processes of one run connect directly.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=ANSWER + hold)
        try:
            connection.request("POST", "/", body)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            refused = isinstance(error, ConnectionRefusedError)
            raise Gone(f"{type(error).__name__}: {error}", refused=refused) from error
        finally:
            connection.close()

    def own_address(self) -> str:
        """The address by which this host reaches process 0, and by which others can reach this host."""
        with socket.create_connection((self.host, self.port), ANSWER) as connection:
            return str(connection.getsockname()[0])
