"""A cluster that can't be joined is told at once, in two lines, and nothing else is printed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from raybd.engine.cluster.connect import connected
from raybd.types.errors import UserError
from tests.cli.in_process import raybd

TOKEN = "f" * 64


class _Head(grpc.GenericRpcHandler):
    """Answers as a head does that has another token."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def service(self, details: Any) -> Any:
        self.asked += [value for name, value in details.invocation_metadata if "auth" in name]

        def refuse(request: bytes, context: Any) -> bytes:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


@pytest.fixture
def head() -> Iterator[tuple[str, _Head]]:
    handler = _Head()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", handler
    server.stop(0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sent", [True, False])
def test_a_wrong_token_is_one_sentence(
    sent: bool,
    head: tuple[str, _Head],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, handler = head
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    if sent:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)

    began = time.monotonic()
    with pytest.raises(UserError) as refused, connected(address):
        pass
    assert time.monotonic() - began < 5
    assert refused.value.exit_code == 3
    told = "refuses our token" if sent else "asks for a token, and none was sent"
    assert told in refused.value.what
    assert handler.asked == ([f"Bearer {TOKEN}"] if sent else [])
    assert capfd.readouterr().err == ""


@pytest.mark.timeout(60)
def test_a_head_that_is_dead_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "name: tiny\ndatasets: [{kind: digits, limit: 300}]\nattacks: [{kind: badnets}]\n"
        "trainers: [{kind: supervised, network: small_cnn, epochs: 1}]\n"
    )
    # Ray reads the address that `auto` means from there first.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    began = time.monotonic()
    arguments = ("run", config, "-q", "--address", "auto", "--store", tmp_path / "results")
    assert raybd(monkeypatch, *arguments) == 3
    assert time.monotonic() - began < 30
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().err
