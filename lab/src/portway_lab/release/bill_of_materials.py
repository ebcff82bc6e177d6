"""What is in a release, as CycloneDX has it (an SBOM): Portway's distributions and all that they need, by uv.lock.

uv writes the third parties with the hashes of their files. Here: what it leaves open, the same in every build.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from portway_lab.release import tools
from portway_lab.release.source import Source

_NAME: Final = "Portway"


def write(source: Source, wheels: Iterable[Path], out: Path) -> Path:
    """Write the bill of materials of all published distributions; `wheels` are theirs."""
    selected = [word for one in source.distributions for word in ("--package", one.name)]
    options = ["--frozen", "--no-dev", "--format", "cyclonedx1.5", "--quiet"]
    bill: dict[str, Any] = json.loads(tools.run([tools.uv(), "export", *options, *selected], source.root))
    by_package = {path.name.partition("-")[0]: path for path in wheels}
    for component in bill["components"]:
        wheel = by_package.get(component["name"].replace("-", "_"))
        if wheel is not None:
            component |= _own(component["name"], source.version, wheel)
    bill["metadata"]["component"] |= {"name": _NAME, "version": source.version, "type": "application"}
    bill["metadata"]["timestamp"] = datetime.fromtimestamp(source.epoch, UTC).isoformat()
    del bill["serialNumber"]
    told = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).digest()
    bill["serialNumber"] = uuid.UUID(bytes=told[:16], version=4).urn
    path = out / f"{_NAME.lower()}-{source.version}.cdx.json"
    path.write_text(json.dumps(bill, indent=2) + "\n")
    return path


def _own(name: str, version: str, wheel: Path) -> dict[str, Any]:
    """What the lock file does not say of a distribution of the workspace."""
    return {
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
    }
