"""nginx before a registry, with TLS."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from bench.daemons import Daemon, free_ports
from tests.world.certificates import Certificate
from tests.world.programs import require

_CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location / {{
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffering off;
        }}
    }}
}}
"""


def start_nginx(folder: Path, target: str, certificate: Certificate, stack: ExitStack) -> str:
    """Serve `target` by TLS until `stack` ends; returns the address."""
    require("nginx")
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder,
            port=port,
            target=target,
            certificate=certificate.certificate_file,
            key=certificate.key_file,
        )
    )
    command = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(configuration)]
    stack.enter_context(Daemon(command, folder / "log")).wait_for(port)
    return f"https://127.0.0.1:{port}"
