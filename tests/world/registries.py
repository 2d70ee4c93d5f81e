"""Real registries on loopback: Debian's docker-registry, open or with logins, and one that knows referrers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bench.daemons import Daemon, free_ports
from bench.netns import Host
from bench.origin import PROGRAM, distribution_config, logged_traffic
from tests.world.tokens import TokenServer

USERS = {"alice": "alice-secret", "bob": "bob-secret"}
"""Names and passwords at registries that ask for some."""

_HTPASSWD = """\
alice:$2y$04$abcdefghijklmnopqrstuuHCSenwm8buK215m4R4q2ZmPL95d0lX2
bob:$2y$04$abcdefghijklmnopqrstuutONqXI.Tky7szVMAjFWKbaQptzT4HRm
"""


@dataclass
class Registry:
    """Distribution's registry. Several may serve one folder `storage`, an open one to push to among them."""

    folder: Path
    storage: Path | None = None
    """Where its content is; `folder`/data unless told."""
    htpasswd: bool = False
    """Whether it asks for name and password of `USERS`."""
    tokens: TokenServer | None = None
    """Whose tokens it asks for."""
    program: str = PROGRAM
    host: Host | None = None
    """Where it runs; None: on loopback."""
    port: int = 0
    notifies: str = ""
    """Where it tells of pushes."""
    token: str = ""
    """What it bears there."""
    _started: Daemon | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        return self.storage or self.folder / "data"

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self.port}"

    @property
    def _address(self) -> str:
        return self.host.address if self.host else "127.0.0.1"

    @property
    def daemon(self) -> Daemon:
        """The process that was started last."""
        assert self._started is not None
        return self._started

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, stack: ExitStack) -> Self:
        """Serve until `stack` ends."""
        config = self.folder / "config.json"
        config.write_text(json.dumps(self._config()))
        self._started = stack.enter_context(Daemon([self.program, "serve", str(config)], self.log, host=self.host))
        self._started.listening(self.port)
        return self

    def requests(self) -> int:
        """How many it has answered so far."""
        return logged_traffic(self.log)[0]

    def sent(self) -> int:
        """Bytes of bodies that left it so far."""
        return logged_traffic(self.log)[1]

    def _config(self) -> dict[str, object]:
        config = distribution_config(self.root, f"{self._address}:{self.port}")
        # its answers name it by path alone, so that a front may stand before it
        address = f"{self._address}:{self.port}"
        config["http"] = {"addr": address, "relativeurls": True, "secret": "of all that share it"}
        if self.htpasswd:
            passwords = self.folder / "htpasswd"
            passwords.write_text(_HTPASSWD)
            config["auth"] = {"htpasswd": {"realm": "registry.test", "path": str(passwords)}}
        if self.tokens is not None:
            config["auth"] = {
                "token": {
                    "realm": self.tokens.realm,
                    "service": self.tokens.service,
                    "issuer": self.tokens.issuer,
                    "rootcertbundle": str(self.tokens.authority.file),
                }
            }
        if self.notifies:
            headers = {"Authorization": [f"Bearer {self.token}"]}
            endpoint = {"name": "told", "url": self.notifies, "headers": headers, "timeout": "5s", "threshold": 3}
            config["notifications"] = {"endpoints": [{**endpoint, "backoff": "1s"}]}
        return config


@dataclass
class Olareg:
    """A small registry that knows referrers."""

    folder: Path
    program: Path
    port: int = 0

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, stack: ExitStack) -> Self:
        """Serve until `stack` ends."""
        command = [str(self.program), "serve", "--addr", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self.folder / "data"), "--api-blob-delete"]
        stack.enter_context(Daemon(command, self.folder / "log")).wait_for(self.port)
        return self
