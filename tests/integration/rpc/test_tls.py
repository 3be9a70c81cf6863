"""TLS on loopback with certificates made for the test."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from esper.cli.main import main as esper
from esper.core.clock import SYSTEM_CLOCK
from esper.core.errors import ConfigError, ServiceUnavailable
from esper.core.security.keys import Keyring, new_secret
from esper.leyline import FieldReport
from esper.rpc.clients import BusClient, Tls, channel, doubt_of
from esper.rpc.reporting.alarm import Alarm
from esper.rpc.reporting.telemetry import LogReporter
from esper.rpc.server.server import Server, ServerConfig, start
from esper.tamiyo.service.parts import BusLine, Surroundings
from esper.tolaria.plane.services import START_ORDER, Services, ServicesConfig
from tests.unit.rpc.scripted import ScriptedBus, a_request

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates, and is missing"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and certificates of a server and a client from it; a stranger's authority too."""
    directory = tmp_path_factory.mktemp("tls")
    for authority in ("ca", "stranger"):
        _openssl(
            directory, "req", "-x509", *_new_key(authority), "-out", f"{authority}.pem", "-subj", f"/CN={authority}"
        )
    extension = directory / "san.cnf"
    extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        _openssl(directory, "req", *_new_key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        issuing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san.cnf")
        _openssl(directory, "x509", "-req", "-in", f"{name}.csr", *issuing, "-out", f"{name}.pem", "-days", "2")
    (directory / "other.cnf").write_text("subjectAltName=DNS:elsewhere.example\n")
    for name, authority, names, days in (("misnamed", "ca", "other", "2"), ("foreign", "stranger", "san", "2")):
        _openssl(directory, "req", *_new_key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        issuing = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial")
        extended = ("-extfile", f"{names}.cnf", "-out", f"{name}.pem", "-days", days)
        _openssl(directory, "x509", "-req", "-in", f"{name}.csr", *issuing, *extended)
    expiring = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san.cnf", "-days", "-1")
    _openssl(directory, "x509", "-req", "-in", "server.csr", *expiring, "-out", "expired.pem")
    (directory / "garbage.pem").write_text("no certificate")
    return directory


def _new_key(name: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


async def serve(certificates: Path, *, asks_clients: bool) -> AsyncIterator[Server]:
    config = ServerConfig(
        listen="127.0.0.1:0",
        tls_cert=certificates / "server.pem",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.pem" if asks_clients else None,
    )
    server = await start(config, [ScriptedBus()])
    yield server
    await server.drain(0.1)


@pytest.fixture
async def server(certificates: Path) -> AsyncIterator[Server]:
    async for made in serve(certificates, asks_clients=False):
        yield made


@pytest.fixture
async def asking_server(certificates: Path) -> AsyncIterator[Server]:
    async for made in serve(certificates, asks_clients=True):
        yield made


async def call(server: Server, tls: Tls | None) -> list[int]:
    def work() -> list[int]:
        with channel(server.endpoint, tls) as link:
            return list(BusClient(link).publish(a_request(), timeout_s=5).sequences)

    return await asyncio.to_thread(work)


async def test_a_client_that_trusts_the_authority_is_served(server: Server, certificates: Path) -> None:
    assert await call(server, Tls(ca=certificates / "ca.pem")) == [1]


async def test_a_client_that_trusts_another_authority_does_not_talk(server: Server, certificates: Path) -> None:
    with pytest.raises(ServiceUnavailable):
        await call(server, Tls(ca=certificates / "stranger.pem"))


async def test_plain_text_is_not_understood(server: Server) -> None:
    with pytest.raises(ServiceUnavailable):
        await call(server, None)


async def test_a_server_that_asks_for_it_serves_certified_clients_only(
    asking_server: Server, certificates: Path
) -> None:
    own = Tls(ca=certificates / "ca.pem", cert=certificates / "client.pem", key=certificates / "client.key")
    assert await call(asking_server, own) == [1]
    with pytest.raises(ServiceUnavailable):
        await call(asking_server, Tls(ca=certificates / "ca.pem"))


async def test_a_certificate_lets_a_server_listen_beyond_loopback(certificates: Path) -> None:
    config = ServerConfig(listen="0.0.0.0:0", tls_cert=certificates / "server.pem", tls_key=certificates / "server.key")
    server = await start(config, [ScriptedBus()])
    assert server.endpoint.port > 0
    await server.drain(0.1)


async def test_tamiyo_publishes_its_reports_to_a_bus_that_asks_for_tls(server: Server, certificates: Path) -> None:
    keyring = Keyring.from_secret("test-secret-0123456789-abcdefghijklm")
    around = Surroundings(
        alarm=Alarm(None, keyring, SYSTEM_CLOCK, "tamiyo", certificates),
        keyring=keyring,
        clock=SYSTEM_CLOCK,
        state_dir=certificates,
        reporter=LogReporter(),
        bus_endpoint=str(server.endpoint),
    )
    report = FieldReport(report_id="r1", command_id="c1")
    trusting = BusLine(replace(around, bus_tls=Tls(ca=certificates / "ca.pem")))
    await trusting.publish([report])
    await trusting.close()
    plain = BusLine(around)
    with pytest.raises(ServiceUnavailable):
        await plain.publish([report])
    await plain.close()


async def test_a_trainer_connects_to_services_that_ask_for_a_certificate(
    asking_server: Server, certificates: Path, tmp_path: Path
) -> None:
    own = Tls(ca=certificates / "ca.pem", cert=certificates / "client.pem", key=certificates / "client.key")
    places = dict.fromkeys(START_ORDER, str(asking_server.endpoint))

    def connected(tls: Tls | None) -> int:
        config = ServicesConfig(**places, state_dir=tmp_path, connect_timeout_s=1.0, tls=tls)
        with Services(config, None, lambda name, text: None) as services, services.open_channel("kasmina") as link:
            return len(BusClient(link).publish(a_request(), timeout_s=5).sequences)

    assert await asyncio.to_thread(connected, own) == 1
    with pytest.raises(ConfigError, match="speaks TLS: give the authority of its certificate"):
        await asyncio.to_thread(connected, None)
    with pytest.raises(ConfigError, match="the server asks for a client's certificate"):
        await asyncio.to_thread(connected, Tls(ca=own.ca))
    foreign = Tls(ca=own.ca, cert=certificates / "foreign.pem", key=certificates / "foreign.key")
    with pytest.raises(ConfigError, match=r"does not take the certificate in .*foreign\.pem"):
        await asyncio.to_thread(connected, foreign)


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "setting", "cause"),
    [
        ("server.pem", "client.key", None, "tls_key", "is not the key of the certificate in"),
        ("garbage.pem", "server.key", None, "tls_cert", "holds no certificate in PEM"),
        ("server.pem", "garbage.pem", None, "tls_key", "holds no private key in PEM"),
        ("server.key", "server.pem", None, "tls_cert", "holds no certificate in PEM"),
        ("expired.pem", "server.key", None, "tls_cert", "has expired"),
        ("server.pem", "server.key", "garbage.pem", "tls_client_ca", "holds no certificate in PEM"),
        ("server.pem", "server.key", "server.key", "tls_client_ca", "holds no certificate in PEM"),
        ("absent.pem", "server.key", None, "tls_cert", "can't be read"),
    ],
)
async def test_files_that_do_not_belong_together_are_named_before_a_server_listens(
    certificates: Path, cert: str, key: str, client_ca: str | None, setting: str, cause: str
) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0",
        tls_cert=certificates / cert,
        tls_key=certificates / key,
        tls_client_ca=None if client_ca is None else certificates / client_ca,
    )
    with pytest.raises(ConfigError, match=cause) as refused:
        await start(config, [ScriptedBus()])
    assert refused.value.key == setting


@pytest.mark.parametrize(
    ("ca", "cert", "key", "setting", "cause"),
    [
        ("ca.pem", "client.pem", "server.key", "tls key", "is not the key of the certificate in"),
        ("ca.pem", "expired.pem", "server.key", "tls cert", "has expired"),
        ("garbage.pem", None, None, "tls ca", "holds no certificate in PEM"),
    ],
)
def test_a_client_names_the_file_of_its_own_that_is_wrong(
    certificates: Path, ca: str, cert: str | None, key: str | None, setting: str, cause: str
) -> None:
    tls = Tls(
        ca=certificates / ca,
        cert=None if cert is None else certificates / cert,
        key=None if key is None else certificates / key,
    )
    with pytest.raises(ConfigError, match=cause) as refused:
        channel("127.0.0.1:1", tls)
    assert refused.value.key == setting


@pytest.mark.parametrize(
    ("served", "trusted", "cause"),
    [
        ("server", "stranger", r"is not from .*stranger\.pem"),
        ("foreign", "ca", r"is not from .*ca\.pem"),
        ("misnamed", "ca", "is for another name"),
        ("server", None, "speaks TLS: give the authority of its certificate"),
        ("server", "ca", None),
    ],
)
async def test_a_trainer_says_what_is_wrong_with_a_servers_certificate(
    certificates: Path, tmp_path: Path, served: str, trusted: str | None, cause: str | None
) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0", tls_cert=certificates / f"{served}.pem", tls_key=certificates / f"{served}.key"
    )
    server = await start(config, [ScriptedBus()])

    def connect() -> None:
        places = dict.fromkeys(START_ORDER, str(server.endpoint))
        tls = None if trusted is None else Tls(ca=certificates / f"{trusted}.pem")
        with Services(ServicesConfig(**places, state_dir=tmp_path, connect_timeout_s=0.5, tls=tls), None, print):
            pass

    if cause is None:
        await asyncio.to_thread(connect)
    else:
        with pytest.raises(ConfigError, match=cause):
            await asyncio.to_thread(connect)
    await server.drain(0.1)


async def test_a_server_without_tls_is_told_from_one_with_another_certificate(certificates: Path) -> None:
    server = await start(ServerConfig(listen="127.0.0.1:0"), [ScriptedBus()])
    doubt = await asyncio.to_thread(doubt_of, server.endpoint, Tls(ca=certificates / "ca.pem"))
    assert doubt is not None
    assert "without TLS" in doubt
    await server.drain(0.1)


@pytest.mark.parametrize(
    ("ca", "cause"), [(None, "speaks TLS: give the authority of its certificate"), ("stranger.pem", "is not from")]
)
async def test_an_operator_is_told_what_is_wrong_with_a_certificate(
    certificates: Path,
    ca: str | None,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ESPER_LEYLINE_SECRET", new_secret())
    config = ServerConfig(
        listen="127.0.0.1:0", tls_cert=certificates / "server.pem", tls_key=certificates / "server.key"
    )
    server = await start(config, [ScriptedBus()])
    authority = [] if ca is None else ["--ca", str(certificates / ca)]
    command = ["emergency", "list", "--weatherlight", str(server.endpoint), *authority]
    assert await asyncio.to_thread(esper, command) == 78
    refused = capsys.readouterr().err
    assert cause in refused
    assert refused.count("\n") == 1
    await server.drain(0.1)
