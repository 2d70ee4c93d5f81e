"""Who serves or caches blobs beside Shoal in a measurement: distribution's pull-through cache and nginx."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.daemons import Daemon, free_ports
from bench.origin import PROGRAM, distribution_config
from bench.processes import Program


@dataclass(frozen=True)
class Contender:
    """A server that a client pulls from; `programs` are those whose CPU is its own."""

    name: str
    address: tuple[str, int]
    programs: tuple[Program, ...]
    make_socket: Callable[[], socket.socket] = socket.socket
    """Makes the client's sockets, where it is on a host of a shaped network."""

    def cpu_seconds(self) -> float:
        return sum(program.cpu_seconds() for program in self.programs)


def distribution_cache(stack: ExitStack, folder: Path, upstream: str) -> Contender:
    """docker-registry as a pull-through cache with an empty store."""
    folder.mkdir()
    (port,) = free_ports(1)
    config = folder / "config.json"
    config.write_text(json.dumps(distribution_config(folder / "data", f"127.0.0.1:{port}", upstream)))
    daemon = stack.enter_context(Daemon([PROGRAM, "serve", str(config)], folder / "log"))
    daemon.wait_for(port)
    return Contender("distribution's cache", ("127.0.0.1", port), (daemon,))


def nginx_files(stack: ExitStack, folder: Path, root: Path) -> Contender:
    """nginx that serves the files below `root` by sendfile."""
    return _nginx(stack, folder, "nginx", f"root {root}; sendfile on; tcp_nopush on;", "")


def nginx_cache(stack: ExitStack, folder: Path, upstream: str) -> Contender:
    """nginx with an empty proxy_cache in front of `upstream`."""
    cache = f"proxy_cache_path {folder}/cache keys_zone=blobs:10m max_size=8g;"
    location = (
        f"proxy_pass {upstream}; proxy_cache blobs; proxy_cache_valid 200 1h; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; proxy_max_temp_file_size 0; sendfile on;'
    )
    return _nginx(stack, folder, "nginx proxy_cache", location, cache)


def _nginx(stack: ExitStack, folder: Path, name: str, location: str, http: str) -> Contender:
    folder.mkdir()
    (port,) = free_ports(1)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; user root; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 1024; }\n"
        f"http {{ access_log off; {http} client_body_temp_path {folder}/body; proxy_temp_path {folder}/temp;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}\n"
    )
    daemon = stack.enter_context(Daemon(["nginx", "-c", str(config), "-p", str(folder)], folder / "log"))
    daemon.wait_for(port)
    return Contender(name, ("127.0.0.1", port), (daemon,))
