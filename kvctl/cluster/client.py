"""A configuration -> a client of the library with its credentials: authentication and TLS are its work."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

from kvctl import __version__
from kvctl.cluster.kubeconfig import Source, chosen_context
from kvctl.errors import ClusterError
from kvctl.model.text import quote

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SOCKET_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""The kernel asks a silent peer after 30 s and gives it up after a minute, as tcp(7) describes."""
_MOST_IDLE = 32
"""Connections that are kept; not more than there are threads."""


def make_client(source: Source) -> ApiClient:
    """A client with the credentials of `source`. Raises ClusterError without any text of the kubeconfig."""
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import load_incluster_config, load_kube_config

    context = chosen_context(source).name if source.files else None
    configuration = Configuration()
    # urllib3 would try again by itself, each time with a new timeout.
    configuration.retries = False
    configuration.socket_options = list(SOCKET_OPTIONS)
    # By default five a core: where there is one, the agent's threads would connect anew all the time.
    configuration.connection_pool_maxsize = _MOST_IDLE
    held = _Held()
    root = logging.getLogger()
    root.addHandler(held)
    try:
        if source.files:
            load_kube_config(  # type: ignore[no-untyped-call]
                config_file=os.pathsep.join(source.files),
                context=context,
                client_configuration=configuration,
            )
        else:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        client = ApiClient(configuration=configuration)
        client.user_agent = f"kvctl/{__version__}"
    except Exception as error:
        raise ClusterError(
            "cannot use the configuration of the cluster: its credentials or certificates"
            f" cannot be read ({type(error).__name__})",
            hint="check it with kubectl cluster-info",
        ) from None
    finally:
        root.removeHandler(held)
    if held.first is not None:
        # The library logs that a credential plugin failed, and would go on as system:anonymous.
        raise ClusterError(
            f"the credential plugin of the kubeconfig failed: {quote(held.first)}",
            hint="run the command in the user's exec section by hand",
        )
    if not configuration.verify_ssl:
        import urllib3

        # The kubeconfig asks for it (insecure-skip-tls-verify); a warning a request says nothing new.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return client


class _Held(logging.Handler):
    """Keeps the first error that is logged by this thread."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.first: str | None = None
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if self.first is None and record.thread == self._thread:
            self.first = record.getMessage()
