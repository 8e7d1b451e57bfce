"""A connection that is not there is told at once, by the name of what does not answer."""

import socket
import threading

import pytest

from synthmed.runtime import network
from synthmed.runtime.network import check_connection


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_address_that_answers_passes_and_one_that_does_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        check_connection(f"http://localhost:{port}/file")
        monkeypatch.setenv("https_proxy", f"http://localhost:{port}")
        check_connection("https://nowhere.invalid/file")
        monkeypatch.setenv("https_proxy", f"localhost:{port}")
        check_connection("https://nowhere.invalid/file")
    with pytest.raises(ConnectionError, match=r"no connection to nowhere\.invalid through the proxy localhost"):
        check_connection("https://nowhere.invalid/file")
    with pytest.raises(ConnectionError, match="no connection to localhost: Connection refused"):
        check_connection(f"http://localhost:{port}/file")


def test_silence_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def connect(*_: object) -> socket.socket:
        answered.wait(60)
        return socket.socket()

    monkeypatch.setattr(network, "TIMEOUT_SEC", 0.01)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ConnectionError, match="no answer within"):
        check_connection("https://localhost/file")
    answered.set()
