"""The handbook's blocks: each is understood, what is not run says what shows it instead, files are what they seem."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hcl2
import jsonschema
import kubernetes_validate
import pytest
import yaml
from portway_lab.checkout import ROOT
from portway_lab.handbook.pages import BadPage, Block, blocks, pages
from portway_relay import settings as relay_settings
from portway_testkit.processes.running_program import needed

_BLOCKS = [block for page in pages() for block in blocks(page)]
_FILES = {f"{block.page.stem}/{block.title}": block for block in _BLOCKS if block.is_file}
# Of what no test reads as what it is: lines for other programs' files, and parts of a Dockerfile.
_SHOWN = {"ssh/ssh_config", "postgresql/pg_hba.conf", "containers/Dockerfile"}


def test_every_page_of_those_sections_is_read() -> None:
    """The sections of the site are not empty, and all of their pages are there."""
    assert len(pages()) > 35
    assert [page for page in pages() if not page.is_file()] == []


def test_what_is_not_run_says_what_shows_it_instead(capsys: pytest.CaptureFixture[str]) -> None:
    """A test or a script that is there; `scripts/docs --not-run` lists them all, and this test, too."""
    left_out = [block for block in _BLOCKS if block.why]
    missing = [f"{block.place}: {block.instead}" for block in left_out if not (ROOT / block.instead).is_file()]
    assert missing == []
    assert [block.place for block in left_out if not block.is_typed] == [], "a file is not run anyway"
    done = subprocess.run([ROOT / "scripts/docs", "--not-run"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{block.place}: {block.why}; instead: {block.instead}" for block in left_out]
    with capsys.disabled():
        print(f"\ncommands of the handbook that are not run: {len(left_out)}\n{done.stdout}")


def test_a_console_s_lines_are_commands_and_output() -> None:
    """With a prompt before each command."""
    for block in _BLOCKS:
        if block.language == "console":
            assert block.commands(), block.place


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<!-- not run: because -->\n```console\n$ true\n```\n", "a mark that is not known"),
        ("<!-- keeps runing -->\n```console\n$ true\n```\n", "a mark that is not known"),
        ("```console\ntrue\n```\n", "has no prompt"),
    ],
)
def test_a_page_that_is_not_understood_is_refused(text: str, says: str, tmp_path: Path) -> None:
    """With the line."""
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(BadPage, match=says):
        [block.commands() for block in blocks(page)]


def _files(*suffixes: str) -> Iterator[tuple[str, Block]]:
    yield from ((name, block) for name, block in _FILES.items() if name.endswith(suffixes))


def test_files_in_yaml_are_what_their_readers_take() -> None:
    """Compose files, Kubernetes' objects, values of the chart, jobs of a CI system."""
    (schema,) = (json.loads(path.read_text()) for path in (ROOT / ".tools").glob("compose-spec-*.json"))
    seen = set()
    for name, block in _files(".yaml", ".yml"):
        loaded = yaml.safe_load(block.text)
        if "services" in loaded:
            jsonschema.validate(loaded, schema, cls=jsonschema.Draft7Validator)
        elif "apiVersion" in loaded:
            kubernetes_validate.validate(loaded, "1.33", strict=True)
        elif "jobs" in loaded:
            assert all("steps" in job for job in loaded["jobs"].values())
        else:
            chart = ROOT / "deploy/helm/portway"
            values = yaml.safe_load((chart / "values.yaml").read_text()) | loaded  # what is not given is the chart's
            checked = json.loads((chart / "values.schema.json").read_text())
            jsonschema.validate(values, checked, cls=jsonschema.Draft7Validator)
        seen.add(name)
    assert {"containers/compose.yaml", "containers/pod.yaml", "kubernetes/fra.yaml", "ci-jobs/job.yml"} <= seen


def test_settings_in_toml_are_a_node_s(tmp_path: Path) -> None:
    """Every key is known, every value understood."""
    for name, block in _files(".toml"):
        file = tmp_path / "relay.toml"
        file.write_text(block.text)
        assert relay_settings.load({"config": file}, {}).domain == "tun.example.com", name


def test_terraform_s_files_are_read_as_its_language() -> None:
    """Each resource that another one refers to is there, and each variable."""
    for _, block in _files(".tf"):
        loaded = hcl2.loads(block.text)
        names = {
            f"{kind.strip(chr(34))}.{name.strip(chr(34))}"
            for resource in loaded["resource"]
            for kind, named in resource.items()
            for name in named
        }
        assert set(re.findall(r"\b((?:hcloud|aws)_\w+\.\w+)[.\[]", block.text)) <= names
        declared = {name.strip('"') for variable in loaded["variable"] for name in variable}
        assert set(re.findall(r"\bvar\.(\w+)", block.text)) == declared


def test_units_are_taken_by_systemd(tmp_path: Path) -> None:
    """Every directive, as its own tool reads it."""
    for _, block in _files(".service"):
        file = tmp_path / block.title
        file.write_text(block.text)
        verified = subprocess.run(
            [needed("systemd-analyze"), "verify", file], capture_output=True, text=True, check=False
        )
        assert (verified.returncode, verified.stderr) == (0, "")


def test_rules_of_the_firewall_are_taken(tmp_path: Path) -> None:
    """By nft, in a network of its own."""
    for _, block in _files(".nft"):
        file = tmp_path / block.title
        file.write_text(block.text)
        command = ["unshare", "--net", needed("nft"), "-c", "-f", str(file)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        if "Operation not permitted" in checked.stderr:
            pytest.skip("needs root, for a network of its own")
        assert (checked.returncode, checked.stderr) == (0, "")


def test_no_other_files_are_shown() -> None:
    """Each is run by its page's commands, or read by a test above."""
    read = {name for name, _ in _files(".yaml", ".yml", ".toml", ".tf", ".service", ".nft")}
    run = {name for name, block in _FILES.items() if block.language in {"python", "bash"}}
    assert set(_FILES) - read - run == _SHOWN
