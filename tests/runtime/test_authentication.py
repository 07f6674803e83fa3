"""Which clusters are refused without a token, and what a local one is started with. Nothing is started here."""

import concurrent.futures
import re
import socket
from typing import Any

import grpc
import psutil
import pytest
import ray

from echodfkd.config.run import RayConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.cluster import connection
from echodfkd.runtime.cluster.connection import answers_anyone, check_authentication, connected
from echodfkd.runtime.cluster.environment import prepare_ray

OTHER = "203.0.113.7:6379"
"""An address of the range kept for documentation (RFC 5737)."""


def own_address() -> str:
    """An address of this machine that others can reach; where it has none, a loopback one."""
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == socket.AF_INET]
    return next((address for address in found if not address.startswith("127.")), "127.0.0.1")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("mode", ["", "disabled"])
@pytest.mark.parametrize(
    "address", [OTHER, f"ray://{OTHER}", "local", "[2001:db8::1]:6379", "no-such-host.invalid:6379", "x:y:z", ""]
)
def test_others_need_a_token(
    mode: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(RunError, match=r"without authentication \(RAY_AUTH_MODE is .*set RAY_AUTH_MODE=token"):
        check_authentication(address, allowed=False)
    check_authentication(address, allowed=True)
    assert re.fullmatch(r"warning: ray.address: .* could run code on it\n", capsys.readouterr().err)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(connection, "answers_anyone", lambda address: False)
    check_authentication(address, allowed=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", ["", "disabled"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379", "ray://127.0.0.1:10001", "auto", "OWN:6379"]
)
def test_this_machine_is_taken_with_a_warning(
    mode: str, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's ports listen on every interface, also if the loopback is dialled."""
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    address = address.replace("OWN", own_address())
    check_authentication(address, allowed=False)
    words = f"warning: ray.address: the cluster at {address} would be used without authentication (RAY_AUTH_MODE is"
    warned = capsys.readouterr().err
    assert warned.startswith(words)
    assert warned.count("\n") == 1


class Answer:
    """A fake of Ray's GCS and of its client server: answers every call, or only those with the token."""

    def __init__(self, token: str) -> None:
        self.token = token

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.token and ("authorization", f"Bearer {self.token}") not in call.invocation_metadata:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "token is missing")
            return b""

        assert call.method in ("/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo")
        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("token", ["", "secret"])
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_that_needs_no_token_is_found_out_also_by_who_has_one(
    token: str, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Answer(token),))
    address = form.format(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    try:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        assert answers_anyone(address) is not bool(token)
        check_authentication(address, allowed=False)
        warned = capsys.readouterr().err
        assert ("it answers callers without a token" in warned) is not bool(token)
        monkeypatch.setattr(connection, "_is_this_machine", lambda address: False)
        if not token:
            with pytest.raises(RunError, match=r"without authentication \(it answers callers without a token\)"):
                check_authentication(address, allowed=False)
    finally:
        server.stop(None)
    assert not answers_anyone(address)  # nothing listens there


def test_the_address_of_the_environment_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with connected(RayConfig()):
            pass
    assert f"warning: ray.address: the cluster at {address} would be used" in capsys.readouterr().err


def test_a_refused_cluster_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(ray, "init", lambda **options: called.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(RunError, match=f"the cluster at {OTHER} would be used"), connected(RayConfig(address=OTHER)):
        pass
    assert not called


def test_a_local_cluster_gets_a_token_and_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "init", lambda **options: called.append(options))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare_ray("local")
    with pytest.raises(RunError, match="a new local cluster would be used without"), connected(RayConfig("local")):
        pass
    monkeypatch.delenv("RAY_AUTH_MODE")
    prepare_ray("local")
    with connected(RayConfig(address="local")):
        pass
    assert [options["include_dashboard"] for options in called] == [False]
    assert not {"dashboard_host", "dashboard_port"} & set(called[0])
    import os

    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")
