"""TLS that ends in the processor: certificate, key and authorities are usable, or the mistake is named."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from extproc.cli import main
from extproc.config.certificates import client_context, processor_context, server_context, token_key
from extproc.config.settings import ListenerTls, ServerTls, UpstreamTls
from extproc.domain.errors import ConfigError
from tests.support.pki import Authority, private_pem

CONFIG = """
apiVersion: extproc/v1
kind: Config
listeners:
  - name: pg
    address: "0.0.0.0:5432"
    protocol: postgres
    target: db
    tls: {certificate: server.pem, key: server.key, terminate: extproc}
targets:
  - {name: db, kind: postgres, upstream: {address: "unix:pg.sock"}, database: {roles: {"*": {user: app}}}}
identity: {providers: [{name: c, issuer: "https://i.example", audiences: [db], keys: {discovery: true}}]}
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_good_pair_makes_a_context_of_tls_1_2_or_newer(authority: Authority) -> None:
    certificate, key = authority.issue("server", hosts=["localhost"])
    context = server_context(ListenerTls(certificate=certificate, key=key))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_client_certificates_are_verified_where_an_authority_is_named(authority: Authority) -> None:
    certificate, key = authority.issue("server", hosts=["localhost"])
    for required, mode in ((False, ssl.CERT_OPTIONAL), (True, ssl.CERT_REQUIRED)):
        tls = ListenerTls(
            certificate=certificate, key=key, client_ca=authority.path, require_client_certificate=required
        )
        assert server_context(tls).verify_mode == mode


def test_what_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server", hosts=["localhost"])
    _, other = authority.issue("other")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    text = tmp_path / "text"
    text.write_text("no PEM")
    text.chmod(0o600)
    missing = tmp_path / "missing"
    for tls, told in (
        (ListenerTls(certificate=certificate, key=other), "does not belong to this certificate"),
        (ListenerTls(certificate=certificate, key=open_key), "others may use this key"),
        (ListenerTls(certificate=missing, key=key), "No such file"),
        (ListenerTls(certificate=certificate, key=missing), "No such file"),
        (ListenerTls(certificate=text, key=key), "cannot be read as PEM"),
        (ListenerTls(certificate=certificate, key=tmp_path), "is not a regular file"),
        (ListenerTls(certificate=certificate, key=key, client_ca=text), "has no PEM certificates"),
        (ListenerTls(certificate=certificate, key=key, client_ca=missing), "No such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            server_context(tls)


def test_envoy_has_to_prove_itself_and_gets_no_ticket(authority: Authority) -> None:
    certificate, key = authority.issue("processor", hosts=["localhost"])
    context = processor_context(
        ServerTls(certificate=certificate, key=key, client_ca=authority.path, client_sans=("envoy",))
    )
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert (context.minimum_version, context.num_tickets) == (ssl.TLSVersion.TLSv1_2, 0)
    assert not [
        each["name"]
        for each in context.get_ciphers()
        if "GCM" not in each["name"] and "CHACHA" not in each["name"]
    ]


def test_what_the_processor_cannot_use_is_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("processor", hosts=["localhost"])
    _, other = authority.issue("other")
    missing = tmp_path / "missing"
    for files, told in (
        ((certificate, other, authority.path), "does not belong to this certificate"),
        ((missing, key, authority.path), "No such file"),
        ((certificate, missing, authority.path), "No such file"),
        ((certificate, key, missing), "No such file"),
        ((certificate, key, key), "has no PEM certificates"),
    ):
        tls = ServerTls(certificate=files[0], key=files[1], client_ca=files[2], client_sans=("envoy",))
        with pytest.raises(ConfigError, match=told):
            processor_context(tls)


def test_a_servers_authority_has_to_be_there(authority: Authority, tmp_path: Path) -> None:
    context = client_context(UpstreamTls(ca=authority.path), tmp_path / "default.pem")
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match=r"default\.pem"):
        client_context(UpstreamTls(), tmp_path / "default.pem")


def test_config_check_reads_the_certificates(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "extproc.yaml"
    file.write_text(CONFIG)
    done = CliRunner().invoke(main, ["config", "check", str(file)])
    assert done.exit_code == 1 and "listeners[0].tls" in done.output and "server.key" in done.output
    authority.issue("server", hosts=["localhost"])
    done = CliRunner().invoke(main, ["config", "check", str(file)])
    assert done.exit_code == 0, done.output


def test_config_check_reads_the_certificates_of_the_processor(authority: Authority, tmp_path: Path) -> None:
    processor = """
processor:
  listen: "10.0.0.2:5000"
  tls: {certificate: processor.pem, key: processor.key, client_ca: ca.pem, client_sans: [envoy]}
"""
    file = tmp_path / "extproc.yaml"
    file.write_text(CONFIG + processor)
    authority.issue("server", hosts=["localhost"])
    done = CliRunner().invoke(main, ["config", "check", str(file)])
    assert done.exit_code == 1 and "processor.tls" in done.output and "processor.pem" in done.output
    authority.issue("processor", hosts=["localhost"])
    done = CliRunner().invoke(main, ["config", "check", str(file)])
    assert done.exit_code == 0, done.output


def test_a_key_for_tokens_is_rsa_long_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "token.pem"
    for content, told in (
        (private_pem(rsa.generate_private_key(65537, 2048)), "no RSA key of 4096 bits"),
        (private_pem(ec.generate_private_key(ec.SECP256R1())), "no RSA key"),
        (b"-----BEGIN", "no PEM private key"),
        (b"", "no PEM private key"),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=told):
            token_key(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may use this key"):
        token_key(path)
    with pytest.raises(ConfigError):
        token_key(tmp_path / "missing.pem")
