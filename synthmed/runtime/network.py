"""Whether there is a network: told within seconds, where the libraries that download go on trying for a minute."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TIMEOUT_SEC = 3.0


def check_connection(address: str) -> None:
    """Raise ConnectionError where nothing answers at an address, or at the proxy that leads to it."""
    url = urlsplit(address)
    host, proxies = url.hostname or "", getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(host):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    problems = [f"no answer within {TIMEOUT_SEC:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80))).close()
            problems.clear()
        except (OSError, ValueError) as error:  # ValueError: the address of a proxy is none
            problems[:] = [getattr(error, "strerror", None) or str(error)]

    # Beside this thread, because looking up a name has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SEC)
    if problems:
        way = "" if url.hostname == host else f" through the proxy {url.hostname}"
        raise ConnectionError(f"no connection to {host}{way}: {problems[0]}")
