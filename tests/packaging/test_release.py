"""scripts/release: what it refuses, and what says what is in a release."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from portway_lab.checkout import ROOT
from portway_lab.release import bill_of_materials, command, deb, distributions, images
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.source import Source, all_needed, changes, copy, published

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A Git repository of one commit."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "kept").write_text("kept\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.com"]
        subprocess.run(["git", "-C", folder, *who, *words], check=True)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return copy(ROOT, tmp_path_factory.mktemp("source"))


def test_a_checkout_with_changes_is_not_released(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that was edited, or that Git does not know, is not what the commit says."""
    assert changes(checkout) == []
    monkeypatch.setattr(command, "ROOT", checkout)
    for name in ("kept", "new"):
        (checkout / name).write_text("changed\n")
        assert command.main(["--output", str(tmp_path / "out")]) == 1
        assert f"{name}" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_release_is_not_put_beside_another(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an older one left would be in the checksums."""
    monkeypatch.setattr(command, "ROOT", checkout)
    assert command.main(["--output", str(checkout)]) == 1
    assert "not empty" in capsys.readouterr().err


def test_a_folder_that_is_no_checkout_is_not_released(tmp_path: Path) -> None:
    """Its commit, and so the time of everything, is unknown."""
    with pytest.raises(ReleaseFailed, match="Git checkout"):
        changes(tmp_path)


def test_the_checksums_are_of_all_files(tmp_path: Path) -> None:
    """As sha256sum itself reads them."""
    for name in ("one.whl", "two.deb"):
        (tmp_path / name).write_text(name)
    command.write_sums(tmp_path)
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", command.SUMS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert checked.stdout == "one.whl: OK\ntwo.deb: OK\n"


def test_every_published_program_is_in_the_package() -> None:
    """And in an image, but for what sets a whole machine up."""
    every = published(ROOT)
    packaged = {name for one in all_needed(every, *deb.PACKAGES) for name in one.programs}
    assert packaged == {name for one in every for name in one.programs}
    contained = {name for names in images.IMAGES.values() for one in all_needed(every, *names) for name in one.programs}
    assert contained == packaged - {"portway-server"}


def test_the_bill_of_materials_is_one_and_the_same_in_every_build(source: Source, tmp_path: Path) -> None:
    """By the standard's own schema; it has no time or number of its own."""
    # There with the e2e group alone.
    schema = pytest.importorskip("cyclonedx.schema")
    validation = pytest.importorskip("cyclonedx.validation.json")
    wheels = [path for path in distributions.build(source, tmp_path / "wheels") if path.suffix == ".whl"]
    first, second = (bill_of_materials.write(source, wheels, _made(tmp_path / name)) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    bill = json.loads(first.read_text())
    for component in bill["components"][1:]:  # addresses take the validator a second each, and are all alike
        component.pop("externalReferences", None)
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_5)
    assert validator.validate_str(json.dumps(bill)) is None
    assert bill["metadata"]["component"]["version"] == source.version
    own = {one["name"]: one["version"] for one in bill["components"] if one["name"].startswith("portway")}
    assert own == {one.name: source.version for one in source.distributions}


def test_the_bill_of_materials_has_what_the_programs_need(source: Source, tmp_path: Path) -> None:
    """In the versions of uv.lock, each with the hashes of its files; what tests need is not in it."""
    wheels = [path for path in distributions.build(source, tmp_path / "wheels") if path.suffix == ".whl"]
    bill = json.loads(bill_of_materials.write(source, wheels, tmp_path).read_text())
    locked = {one["name"]: one.get("version") for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    listed = {one["name"]: one for one in bill["components"]}
    assert {"grpcio", "cryptography", "uvloop", "aiohttp", "cffi"} <= listed.keys()
    assert {"pytest", "trustme", "portway-testkit", "portway-lab"}.isdisjoint(listed)
    for name, component in listed.items():
        if not name.startswith("portway"):
            assert component["version"] == locked[name]
            assert all(file["hashes"] for file in component["externalReferences"])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
