"""Files that somebody renews, one after the other, whenever they like: what fits together is used, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from extproc.app import renewing
from extproc.app.renewing import CertificateWatch, keep_renewed
from extproc.config.settings import ServerTls
from tests.support.mtls import Mutual
from tests.support.pki import Authority


@pytest.fixture
def mutual(tmp_path: Path) -> Mutual:
    return Mutual(tmp_path)


def looks(watch: CertificateWatch, count: int = 1) -> tuple[list[ssl.SSLContext], list[str]]:
    """What that many looks find, and what they log."""
    with capture_logs() as told:
        found = [watch.look() for _ in range(count)]
    return [each for each in found if each is not None], [each["event"] for each in told]


def test_what_did_not_change_is_not_read_again(mutual: Mutual):
    watch = CertificateWatch(mutual.tls)
    assert looks(watch, 3) == ([], [])


def test_what_changed_is_used_once(mutual: Mutual):
    watch = CertificateWatch(mutual.tls)
    mutual.authority.issue("server", hosts=["localhost"])
    contexts, told = looks(watch, 3)
    assert len(contexts) == 1 and told == ["certificate.renewed"]
    assert contexts[0].verify_mode is ssl.CERT_REQUIRED


def test_a_certificate_without_its_key_waits_for_it(mutual: Mutual, tmp_path: Path):
    watch = CertificateWatch(mutual.tls)
    certificate, key = Authority(tmp_path / "aside").issue("server", hosts=["localhost"])
    mutual.tls.certificate.write_bytes(certificate.read_bytes())
    assert looks(watch, 3) == ([], ["certificate.refused"])  # told once
    mutual.tls.key.write_bytes(key.read_bytes())
    contexts, told = looks(watch, 2)
    assert len(contexts) == 1 and told == ["certificate.renewed"]


@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("how", ["gone", "empty", "nonsense", "cut short", "a folder"])
def test_what_cannot_be_used_is_not(mutual: Mutual, which: str, how: str):
    watch = CertificateWatch(mutual.tls)
    file: Path = getattr(mutual.tls, which)
    whole = file.read_bytes()
    file.unlink()
    match how:
        case "empty":
            file.write_bytes(b"")
        case "nonsense":
            file.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        case "cut short":
            file.write_bytes(whole[: len(whole) // 2])
        case "a folder":
            file.mkdir()
    assert looks(watch, 2) == ([], ["certificate.refused"])
    if file.is_dir():
        file.rmdir()
    file.write_bytes(whole)
    assert len(looks(watch)[0]) == 1


def test_what_nobody_expected_ends_nothing_and_is_told_without_its_words(
    mutual: Mutual, monkeypatch: pytest.MonkeyPatch
):
    def surprise(_: object) -> ssl.SSLContext:
        raise RuntimeError("secret in here")

    watch = CertificateWatch(mutual.tls)
    mutual.authority.issue("server", hosts=["localhost"])
    with monkeypatch.context() as patched, capture_logs() as told:
        patched.setattr(renewing, "processor_context", surprise)
        assert watch.look() is None
    assert told == [{"event": "certificate.refused", "error": "RuntimeError", "log_level": "error"}]
    assert watch.look() is not None


def test_renewed_authorities_count_too(mutual: Mutual, tmp_path: Path):
    watch = CertificateWatch(mutual.tls)
    mutual.tls.client_ca.write_bytes(Authority(tmp_path / "next").path.read_bytes())
    assert len(looks(watch)[0]) == 1


def test_links_that_are_turned_are_noticed(mutual: Mutual, tmp_path: Path):
    """As a mounted secret is renewed: the folder behind the names is another one, in one step."""
    first, second, now = tmp_path / "1", tmp_path / "2", tmp_path / "now"
    for folder in (first, second):
        Authority(folder).issue("server", hosts=["localhost"])
    now.symlink_to(first)
    tls = ServerTls(
        certificate=now / "server.pem", key=now / "server.key", client_ca=now / "ca.pem", client_sans=("x",)
    )
    watch = CertificateWatch(tls)
    (tmp_path / "next").symlink_to(second)
    (tmp_path / "next").replace(now)
    assert len(looks(watch, 2)[0]) == 1


def test_it_looks_again_and_again(mutual: Mutual, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(renewing, "LOOK", 0.001)
    used: list[ssl.SSLContext] = []

    async def main() -> None:
        looking = asyncio.create_task(keep_renewed(CertificateWatch(mutual.tls), used.append))
        for count in (1, 2):
            await asyncio.sleep(0.05)
            mutual.authority.issue("server", hosts=["localhost"])
            async with asyncio.timeout(20):
                while len(used) < count:
                    await asyncio.sleep(0.005)
        looking.cancel()

    asyncio.run(main())
    assert len({id(each) for each in used}) >= 2
