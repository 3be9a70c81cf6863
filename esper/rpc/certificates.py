"""What is wrong with certificates, in words: before a server or a client uses them, and why a peer can't be spoken to.

grpc says of every one of these that it can't listen, or that nobody answers.
"""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path

from esper.core.errors import ConfigError
from esper.rpc.endpoint import Endpoint

_MISMATCH = "KEY_VALUES_MISMATCH"
_CLIENT_ALERTS = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "CERTIFICATE_UNKNOWN", "HANDSHAKE_FAILURE")
PROBE_S = 2.0
# What OpenSSL finds wrong with a peer's certificate -> what it means here.
_EXPIRED, _NOT_YET = 10, 9
_WRONG_NAME, _WRONG_ADDRESS = 62, 64


def require_pair(cert: Path, key: Path, cert_setting: str, key_setting: str) -> None:
    """Raise ConfigError unless these are a certificate of now and the key of it."""
    require_authorities(cert, cert_setting)
    try:
        server = _server(cert, key)
    except ssl.SSLError as error:
        remedy = (
            f"is not the key of the certificate in {cert}: give the one that it was made with"
            if error.reason == _MISMATCH
            else "holds no private key in PEM that opens without a password"
        )
        raise ConfigError(key_setting, str(key), remedy) from error
    if (doubt := _out_of_date(server, cert)) is not None:
        raise ConfigError(cert_setting, str(cert), f"{doubt}; make a new one")


def require_authorities(path: Path, setting: str) -> None:
    """Raise ConfigError unless the file holds certificates, of which one at least is in its time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(setting, str(path), "holds no certificate in PEM") from error
    ends = [str(each["notAfter"]) for each in context.get_ca_certs() if "notAfter" in each]
    if ends and all(ssl.cert_time_to_seconds(end) < time.time() for end in ends):
        raise ConfigError(setting, str(path), f"expired at {max(ends, key=ssl.cert_time_to_seconds)}; make a new one")


def doubt_of(endpoint: Endpoint, ca: Path, cert: Path | None = None, key: Path | None = None) -> str | None:
    """Why a peer can't be spoken to with these files, asked of the peer itself; None if that isn't the reason."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    if cert is not None:
        context.load_cert_chain(cert, key, password="")
    try:
        with socket.create_connection((endpoint.host, endpoint.port), PROBE_S) as raw:
            raw.settimeout(PROBE_S)
            with context.wrap_socket(raw, server_hostname=endpoint.host) as link:
                # A server speaks first, or hangs up where it doesn't like the client's certificate or its absence.
                return None if link.recv(1) else _unwelcome(cert)
    except ssl.SSLCertVerificationError as error:
        return _distrusted(error, endpoint, ca)
    except ssl.SSLError as error:
        return _refused(error, cert)
    except OSError:  # nobody is there, or nobody speaks: no fault of a certificate
        return None


def _distrusted(error: ssl.SSLCertVerificationError, endpoint: Endpoint, ca: Path) -> str:
    if error.verify_code in (_EXPIRED, _NOT_YET):
        when = "expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"the certificate of the server at {endpoint} {when}: it needs a new one, or a clock is wrong"
    if error.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
        return f"the certificate of the server at {endpoint} is for another name: reach it by one that it holds"
    return f"the certificate of the server at {endpoint} is not from {ca}: {error.verify_message}"


def _refused(error: ssl.SSLError, cert: Path | None) -> str | None:
    reason = error.reason or ""
    if any(alert in reason for alert in _CLIENT_ALERTS):
        return _unwelcome(cert)
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "the server speaks without TLS: give no authority, or reach another one"
    return None


def _unwelcome(cert: Path | None) -> str:
    if cert is None:
        return "the server asks for a client's certificate: give a certificate and its key"
    return f"the server does not take the certificate in {cert}: it is not from its authority, or out of date"


def _server(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key, password="")
    return context


def _out_of_date(server: ssl.SSLContext, cert: Path) -> str | None:
    """What a client that trusts the certificate itself finds wrong with its times."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cert)
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for _ in range(4):
            for end in ends:
                _advance(end)
    except ssl.SSLCertVerificationError as error:
        return {_EXPIRED: "has expired", _NOT_YET: "is not valid yet"}.get(error.verify_code)
    except ssl.SSLError:
        return None
    return None


def _advance(end: ssl.SSLObject) -> None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return
