"""The demo's story, played with real traffic: allowed and masked, denied, held and approved, recorded, proven."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from functools import partial
from typing import Any

import click
import httpx2

from extproc.demo.database_story import DatabaseChapter
from extproc.demo.mysql_story import MysqlChapter
from extproc.demo.otlp import ReceivedSpan
from extproc.demo.people import CUSTOMERS
from extproc.demo.scene import Scene
from extproc.demo.stage import PATIENCE, act, expect, indent, until
from extproc.demo.tree import draw_trace, escape


class Story:
    """The acts, in order. Each prints what is asked, what came back, and checks it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.support = scene.token("support-bot", "support")
        self.payer = scene.token("payments-bot", "payments")
        self.approver = scene.approver_token("fiona", "finance")
        self.database = DatabaseChapter(scene, self.cli, self.pending)
        self.mysql = MysqlChapter(scene, self.cli, self.pending)
        self._trace_ids: list[tuple[str, str]] = []

    def play(self) -> None:
        """All acts. Raises DemoError at the first that fails."""
        self.allowed_and_masked()
        self.denied()
        self.nobody()
        self.held_until_approved()
        self.database.play()
        self.mysql.play()
        self.the_trace()
        self.the_proof()
        self.the_packet()

    # ------------------------------------------------------------------ acts

    def allowed_and_masked(self) -> None:
        act(1, "An agent reads a customer: allowed, personal data masked")
        reply = self._ask("GET", "/customers/1", self.support, "support-bot")
        expect(reply.status_code == 200, "the request was allowed")
        real = CUSTOMERS[0]
        leaked = [k for k in ("email", "card", "iban", "ssn", "phone") if real[k] in reply.text]
        expect(not leaked, "no e-mail, card, IBAN, SSN or phone number left the API in clear")
        seen = self.scene.api.seen[-1]
        expect(
            seen.header("x-api-key") == self.scene.api_key,
            "the API saw its credential, which the agent never had",
        )
        expect(seen.header("authorization") is None, "the API did not see the agent's token")

    def denied(self) -> None:
        act(2, "The same agent tries to delete the customer: denied")
        before = len(self.scene.api.seen)
        reply = self._ask("DELETE", "/customers/1", self.support, "support-bot")
        body = reply.json()
        expect(
            reply.status_code == 403 and body["rule"].endswith("no-deletes"), "denied, and the rule is named"
        )
        expect(len(self.scene.api.seen) == before, "nothing reached the API")

    def nobody(self) -> None:
        act(3, "Somebody without a token, and somebody with a forged one: 401")
        expect(self._ask("GET", "/customers", None, "nobody").status_code == 401, "no token, no entry")
        head, _, signature = self.support.split(".")
        forged = f"{head}.{self.payer.split('.')[1]}.{signature}"
        expect(
            self._ask("GET", "/customers", forged, "forger").status_code == 401, "a forged token is refused"
        )

    def held_until_approved(self) -> None:
        act(4, "An agent pays 5,000: held until a person agrees")
        scene = self.scene
        payment = {"amount": 5000, "currency": "EUR", "to_iban": "DE89370400440532013000", "customer_id": 1}
        answer: dict[str, httpx2.Response] = {}

        def pay() -> None:
            answer["reply"] = self._ask("POST", "/payments", self.payer, "payments-bot", payment)

        waiting = threading.Thread(target=pay)
        waiting.start()
        hold_id = until(lambda: self.pending(self.approver), "the hold to appear")
        expect(not scene.api.payments, "the payment waits; nothing was executed")
        shown = self.cli("holds", "show", hold_id, token=self.approver)
        click.echo(indent(shown.stdout))
        own = scene.approver_token("payments-bot", "finance", kind="human")
        itself = self.cli("holds", "approve", hold_id, "--reason", "trust me", token=own)
        expect(itself.returncode != 0, "the requester cannot approve its own payment")
        stray = self.cli("holds", "approve", hold_id, "--reason", "x", token=scene.token("fiona", "finance"))
        expect(stray.returncode != 0, "a data-path token cannot approve")
        approved = self.cli(
            "holds", "approve", hold_id, "--reason", "invoice 2291 checked", token=self.approver
        )
        expect(approved.returncode == 0, "fiona of finance approved it")
        waiting.join(PATIENCE)
        expect("reply" in answer and answer["reply"].status_code == 201, "the waiting request went through")
        expect(len(scene.api.payments) == 1, "and it was executed exactly once")

    def the_trace(self) -> None:
        act(9, "What an SRE sees: every answer is part of the caller's own trace, made from the ledger")
        for title, trace_id in self._trace_ids:
            spans: list[ReceivedSpan] = until(partial(self._ours, trace_id), f"the trace of {title}")
            click.echo(indent(draw_trace(spans)))
        self.database.show_traces()
        self.mysql.show_traces()
        hashes = [s.attributes.get("extproc.record.hash") for s in self.scene.otlp.spans]
        expect(any(hashes), "spans carry the hash of their record")

    def the_proof(self) -> None:
        act(10, "What an auditor checks: the ledger, and that nobody changed it")
        ledger = self.scene.folder / "state" / "ledger"
        until(lambda: self._verify(ledger).returncode == 0, "the checkpointer to sign")
        verdict = self._verify(ledger)
        click.echo(indent(verdict.stdout.strip()))
        expect(verdict.returncode == 0, "the ledger verifies")
        copy = self.scene.folder / "tampered"
        shutil.copytree(ledger, copy)
        line = next(p for p in sorted(copy.rglob("*.jsonl")) if b'"payments-bot"' in p.read_bytes())
        line.chmod(0o600)
        line.write_bytes(line.read_bytes().replace(b'"payments-bot"', b'"somebody-bot"', 1))
        verdict = self._verify(copy)
        click.echo(indent((verdict.stdout + verdict.stderr).strip()))
        expect(verdict.returncode == 1, "a copy in which one name was changed does not")

    def the_packet(self) -> None:
        act(11, "What an auditor takes home: a packet that verifies on a machine without extproc")
        self._canaries()
        home = self.scene.folder / "auditor"
        home.mkdir()
        packet = home / "packet.zip"
        config = str(self.scene.folder / "extproc.yaml")
        given = ("--config", config, "--from", "1h", "--reason", "the demo", "-o", str(packet))
        exported = self.cli("evidence", "export", *given)
        click.echo(indent((exported.stdout + exported.stderr).strip()))
        expect(exported.returncode == 0, "a packet of the last hour was made")
        with zipfile.ZipFile(packet) as archive:
            (home / "verify.py").write_bytes(archive.read("verify.py"))
        key = (self.scene.folder / "state" / "ledger" / "checkpoint.pub").read_text().strip()
        bare = [sys.executable, "-I", "-S", "verify.py", "packet.zip", "--key", key]
        verdict = subprocess.run(bare, cwd=home, capture_output=True, text=True, timeout=60, check=False)
        click.echo(indent((verdict.stdout + verdict.stderr).strip()))
        expect(verdict.returncode == 0, "bare Python verifies it, without extproc")

    def _canaries(self) -> None:
        """Made-up secrets in a request that is allowed and in one that is denied; the result goes into the packet."""
        given = (
            "--config",
            str(self.scene.folder / "extproc.yaml"),
            "--also",
            str(self.scene.folder / "serve.log"),
        )
        for method, path in (("GET", "/customers/1"), ("POST", "/customers")):
            run = self.cli(
                "evidence",
                "canary",
                *given,
                "--method",
                method,
                "--url",
                f"{self.scene.url}{path}",
                token=self.support,
            )
            click.echo(indent((run.stdout + run.stderr).strip()))
            expect(run.returncode == 0, f"no canary of a {method} turned up where it must not")

    # ------------------------------------------------------------------ means

    def _ours(self, trace_id: str) -> list[ReceivedSpan]:
        """The trace, once extproc's own span is in it: Envoy's come earlier."""
        spans = self.scene.otlp.trace(trace_id)
        return spans if any("extproc.record.hash" in span.attributes for span in spans) else []

    def _ask(
        self, method: str, path: str, token: str | None, who: str, body: Mapping[str, Any] | None = None
    ) -> httpx2.Response:
        trace_id = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
        with self.scene.client(token) as client:
            reply = client.request(method, path, json=body, headers=headers)
        click.echo(f"   {who}: {method} {path}{' ' + json.dumps(body) if body else ''}")
        click.echo(f"   ← {reply.status_code} {escape(reply.text, 900)}")
        self._trace_ids.append((f"{method} {path}", trace_id))
        return reply

    def pending(self, approver: str) -> str:
        """The id of what waits for this approver; empty while nothing does."""
        listed = self.cli("holds", "list", "--state", "pending", "--json", token=approver)
        if listed.returncode != 0:
            return ""
        found = json.loads(listed.stdout)
        holds = found["holds"] if isinstance(found, dict) else found
        return str(holds[0]["id"]) if holds else ""

    def cli(self, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
        """The command line, as a person would use it."""
        environment = {**os.environ, "EXTPROC_API": f"unix:{self.scene.api_socket}", "EXTPROC_TOKEN": token}
        return subprocess.run(
            [sys.executable, "-m", "extproc.cli", *arguments], capture_output=True, text=True, env=environment,
            timeout=60, check=False,
        )  # fmt: skip

    def _verify(self, ledger: Any) -> subprocess.CompletedProcess[str]:
        return self.cli("ledger", "verify", "--dir", str(ledger))


def by_hand(story: Story) -> str:
    """What to try once the story is over."""
    scene = story.scene
    return f"""
Everything stays up until you press Ctrl-C. Try it by hand:

  export SUPPORT={story.support}
  export PAYER={story.payer}
  curl -s {scene.url}/customers -H "authorization: Bearer $SUPPORT"
  curl -s -X DELETE {scene.url}/customers/1 -H "authorization: Bearer $SUPPORT"
  curl -s {scene.url}/payments -H "authorization: Bearer $PAYER" -H 'content-type: application/json' \\
       -d '{{"amount": 2500, "currency": "EUR", "to_iban": "DE89370400440532013000", "customer_id": 2}}'

{story.database.by_hand()}{story.mysql.by_hand()}
Decide on what waits, in a browser: {scene.console_url}
Log in as fiona or olga at the demo's issuer, which believes everybody, or as fiona with the one-time code

  {scene.one_time_code}

or in another terminal:

  export EXTPROC_API=unix:{scene.api_socket}
  export EXTPROC_TOKEN={story.approver}
  {sys.executable} -m extproc.cli holds list
  {sys.executable} -m extproc.cli holds approve ID --reason "checked"

(the token above is fiona's of finance; what waits at the database is for olga of operations:)

  export EXTPROC_TOKEN={story.database.approver}
  {sys.executable} -m extproc.cli holds approve ID --reason "checked" --uses 5 --for 30m --scope shape
  {sys.executable} -m extproc.cli grants list

Look at the records:

  {sys.executable} -m extproc.cli ledger tail --dir {scene.folder}/state/ledger
  {sys.executable} -m extproc.cli ledger verify --dir {scene.folder}/state/ledger
  {sys.executable} -m extproc.cli sessions list --config {scene.folder}/extproc.yaml
  {sys.executable} -m extproc.cli evidence export --config {scene.folder}/extproc.yaml --from 1h
"""
