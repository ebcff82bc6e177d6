"""Generate the committed protobuf and gRPC stubs, or check that they are up to date.

Two sets: Portway's messages from proto/portway/v1 into portway_proto.v1, and etcd's API from registry/etcd_api into
portway_registry.store.etcd_api. The .proto packages are not the Python packages (`portway` is the import name of the
client), so the generated imports are rewritten, and nothing else.
"""

import argparse
import filecmp
import importlib.metadata
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grpc_tools import protoc

from portway_lab.checkout import ROOT

GRPC_TOOLS = "1.80.0"  # code generated from 1.85 on needs protobuf >= 7.35
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
GRPC_TOOLS_INCLUDE = Path(protoc.__file__).parent / "_proto"


@dataclass(frozen=True)
class StubSet:
    """One folder of .proto files and the Python package of its stubs."""

    include: Path  # what imports inside the .proto files are relative to
    folder: str  # below include
    package: str  # Python package of the stubs
    output: Path


SETS = (
    StubSet(ROOT / "proto", "portway/v1", "portway_proto.v1", ROOT / "proto/src/portway_proto/v1"),
    StubSet(
        ROOT / "registry/etcd_api",
        "etcd",
        "portway_registry.store.etcd_api",
        ROOT / "registry/src/portway_registry/store/etcd_api",
    ),
)


def generate(stubs: StubSet, scratch: Path) -> list[Path]:
    """Compile one set into `scratch`; returns the files, with their imports rewritten."""
    sources = sorted((stubs.include / stubs.folder).glob("*.proto"))
    if not sources:
        return []
    arguments = [
        "protoc",
        f"-I{stubs.include}",
        f"-I{GRPC_TOOLS_INCLUDE}",
        *(f"--plugin={name}={Path(sys.executable).with_name(name)}" for name in PLUGINS),
        f"--python_out={scratch}",
        f"--grpc_python_out={scratch}",
        f"--mypy_out=quiet:{scratch}",
        f"--mypy_grpc_out=quiet:{scratch}",
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed; its message is above")
    dotted = re.escape(stubs.folder.replace("/", "."))
    generated = sorted((scratch / stubs.folder).iterdir())
    useful = []
    for path in generated:
        text = re.sub(rf"\b{dotted}(?=\.\w+_pb2| import )", stubs.package, path.read_text())
        path.write_text(text)
        if "_pb2_grpc" not in path.name or re.search(r"class \w+Stub", text):  # without a service it would be empty
            useful.append(path)
    return useful


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/generate_stubs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the committed stubs are out of date"
    )
    check = parser.parse_args().check
    installed = importlib.metadata.version("grpcio-tools")
    if installed != GRPC_TOOLS:
        raise SystemExit(f"grpcio-tools {installed} is installed; stubs are made with {GRPC_TOOLS}: run scripts/setup")
    stale: list[Path] = []
    for stubs in SETS:
        with tempfile.TemporaryDirectory() as scratch:
            fresh = generate(stubs, Path(scratch))
            names = {path.name for path in fresh}
            stale += [old for old in stubs.output.glob("*_pb2*.py*") if old.name not in names]
            for path in fresh:
                target = stubs.output / path.name
                if not target.exists() or not filecmp.cmp(path, target, shallow=False):
                    stale.append(target)
                    if not check:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(path.read_bytes())
        if not check:
            for old in [path for path in stale if path.parent == stubs.output and path.name not in names]:
                old.unlink()
    if check and stale:
        print("out of date, run scripts/generate_stubs:", *(p.relative_to(ROOT) for p in stale), sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
