"""Copies go where nobody can change them: a real S3 API with object lock, and folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.ledger_verify import verify_directory
from extproc.adapters.shipping import FOLDER, ObjectStore, Result, ShippingError, ship
from extproc.cli import main
from tests.commands.test_sessions import CONFIG
from tests.support.books import KEY, fill, open_checkpointer, open_writer, read_all, sign_now


@pytest.fixture
def ledger(tmp_path):
    """Two writers that ended and one that runs, several segments each, two checkpoints."""
    directory = tmp_path / "ledger"
    checkpointer = open_checkpointer(directory)
    for name in ("worker0-a-1", "worker0-b-1"):
        writer = open_writer(directory, name, segment_bytes=4000)
        fill(writer, 20)
        writer.close()
    read_all(checkpointer)
    checkpointer.sign()
    running = open_writer(directory, "worker1-a-1", segment_bytes=4000)
    fill(running, 20)
    read_all(checkpointer)
    checkpointer.sign()
    checkpointer.close()
    yield directory
    running.close()


def folder_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path}/store")


def send(directory: Path, store: ObjectStore, **how: bool) -> Result:
    payloads, everything = how.get("payloads", False), how.get("everything", False)
    return ship(directory, store, payloads=payloads, everything=everything, done=lambda _: None)


def fetched(store: ObjectStore, to: Path) -> Path:
    """What a verifier downloads."""
    notes = []
    for name in sorted(store.names()):
        if name.startswith(FOLDER):
            notes.append(store.read(name))
        else:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(store.read(name))
    (to / CHECKPOINTS).write_bytes(b"".join(notes))
    return to


def test_closed_segments_and_checkpoints_are_shipped_and_verify_from_there(ledger, tmp_path):
    store = folder_store(tmp_path)
    result = send(ledger, store, payloads=True)
    running = sorted(path.name for path in (ledger / "worker1-a-1").glob("*.jsonl"))
    assert f"worker1-a-1/{running[0]}" in store.names()
    assert f"worker1-a-1/{running[-1]}" not in store.names()
    assert len(result.shipped) == len(store.names())
    report = verify_directory(fetched(store, tmp_path / "copy"), KEY.key, thorough=True)
    assert {problem.code for problem in report.problems} == {
        "truncated"
    }  # what the running writer still writes
    assert {problem.writer for problem in report.problems} == {"worker1-a-1"}


def test_without_payloads_only_lines_leave(ledger, tmp_path):
    store = folder_store(tmp_path)
    send(ledger, store)
    assert not [name for name in store.names() if name.endswith(".payloads")]


def test_shipping_goes_on_where_it_stopped(ledger, tmp_path):
    store = folder_store(tmp_path)
    sent: list[str] = []

    def stop_after_three(one: Any) -> None:
        sent.append(one.name)
        if len(sent) == 3:
            raise ShippingError("the line was cut")

    with pytest.raises(ShippingError):
        ship(ledger, store, payloads=False, everything=False, done=stop_after_three)
    result = send(ledger, store)
    assert result.present == 3
    assert not result.different
    assert send(ledger, store).shipped == []
    sign_more(ledger)
    again = send(ledger, store)
    assert [one.name.split("/")[0] for one in again.shipped].count(FOLDER) == 1
    notes = b"".join(store.read(name) for name in sorted(store.names()) if name.startswith(FOLDER))
    assert notes == (ledger / CHECKPOINTS).read_bytes()


def test_two_do_not_ship_at_once(ledger, tmp_path):
    """They would cut the checkpoint log at different places, and store it twice for good."""
    store = folder_store(tmp_path)
    refused: list[str] = []

    def ship_again(_: Any) -> None:
        if not refused:
            with pytest.raises(ShippingError, match="another shipping") as trouble:
                send(ledger, store)
            refused.append(str(trouble.value))

    ship(ledger, store, payloads=False, everything=False, done=ship_again)
    assert refused
    assert send(ledger, store).shipped == []  # and the lock is free again


def sign_more(ledger: Path) -> None:
    writer = open_writer(ledger, "worker2-a-1")
    fill(writer, 3)
    writer.close()
    sign_now(ledger)


def test_what_the_store_holds_otherwise_is_named_and_never_overwritten(ledger, tmp_path):
    store = folder_store(tmp_path)
    send(ledger, store)
    name = next(name for name in store.names() if name.startswith("worker0-a-1"))
    path = tmp_path / "store" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert send(ledger, store).different == []
    assert send(ledger, store, everything=True).different == [name]
    path.write_bytes(data[:-5])
    assert send(ledger, store).different == [name]
    assert path.read_bytes() == data[:-5]


def test_a_store_that_lies_is_noticed_at_once(ledger, tmp_path):
    class Lying(ObjectStore):
        def read(self, name: str) -> bytes:
            return super().read(name)[:-1]

    with pytest.raises(ShippingError, match="read back"):
        send(ledger, Lying(f"file://{tmp_path}/store"))


# ------------------------------------------------------------------ object lock


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """An S3 API on this machine with a bucket whose objects nobody may delete for a day."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **keys)
    client.create_bucket(Bucket="ledger-copies", ObjectLockEnabledForBucket=True)
    lock = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
    client.put_object_lock_configuration(
        Bucket="ledger-copies", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": lock}
    )
    yield url, client
    server.stop()


def test_under_a_compliance_lock_nobody_can_delete_or_change_a_shipped_segment(
    ledger, tmp_path, s3, monkeypatch
):
    url, client = s3
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    # AWS takes x-amz-checksum-sha256, which obstore sends; moto asks for this header by name
    headers = {"x-amz-sdk-checksum-algorithm": "SHA256"}
    options = {
        "endpoint": url,
        "region": "us-east-1",
        "client_options": {"allow_http": True, "default_headers": headers},
    }
    store = ObjectStore("s3://ledger-copies/a", options)
    assert len(send(ledger, store).shipped) > 10
    versions = client.list_object_versions(Bucket="ledger-copies")["Versions"]
    assert len(versions) == len(store.names())  # each was written once
    for version in versions:
        with pytest.raises(ClientError, match="AccessDenied"):
            client.delete_object(Bucket="ledger-copies", Key=version["Key"], VersionId=version["VersionId"])
    name = versions[0]["Key"].removeprefix("a/")
    assert store.create(name, b"forged") is False
    assert send(ledger, store, everything=True).different == []
    report = verify_directory(fetched(store, tmp_path / "copy"), KEY.key)
    assert {problem.writer for problem in report.problems if problem.code != "payload-missing"} == {
        "worker1-a-1"
    }


def test_a_store_that_is_not_there_is_said(tmp_path, ledger):
    options = {"endpoint": "http://127.0.0.1:9", "region": "us-east-1", "client_options": {"allow_http": True},
               "retry_config": {"max_retries": 0}}  # fmt: skip
    with pytest.raises(ShippingError):
        send(ledger, ObjectStore("s3://nowhere/a", options))
    with pytest.raises(ShippingError):
        ObjectStore("nonsense://x")


# ------------------------------------------------------------------ the command


def run(config: Path, *arguments: object):
    return CliRunner().invoke(main, ["ledger", "ship", "--config", str(config), *map(str, arguments)])


def test_the_command_records_what_was_shipped_and_the_record_is_true(ledger, tmp_path):
    from hashlib import sha256

    (tmp_path / "policies").mkdir()
    config = tmp_path / "extproc.yaml"
    config.write_text(CONFIG % ledger)
    assert run(config).exit_code == 2
    found = json.loads(run(config, "--to", f"file://{tmp_path}/store", "--json").stdout)
    assert found["shipped"] > 10
    (path,) = ledger.glob("retention-*/*.jsonl")
    (record,) = [json.loads(line) for line in path.read_text().splitlines() if '"retention.shipped"' in line]
    assert len(record["objects"]) == found["shipped"]
    for one in record["objects"]:
        assert sha256((tmp_path / "store" / one["name"]).read_bytes()).hexdigest() == one["sha256"]
    assert verify_directory(ledger, KEY.key).ok
    text = config.read_text()
    config.write_text(
        text.replace(
            "ledger: {directory: ", f"ledger: {{ship: {{url: 'file://{tmp_path}/store'}}, directory: "
        )
    )
    second = json.loads(run(config, "--json").stdout)
    assert (second["shipped"], second["present"]) == (1, found["shipped"])  # the record of the first shipping
    some = next((tmp_path / "store").glob("worker0-a-1/*"))
    some.write_bytes(b"x")
    changed = run(config)
    assert changed.exit_code == 1
    assert "holds something else" in changed.stderr
    assert run(config, "--to", "nonsense://x").exit_code == 3
    shutil.rmtree(tmp_path / "store")
