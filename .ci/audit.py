"""Tell what pip-audit found: advisories fail the check; that nothing could be asked is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Read pip-audit's exit status and its JSON; return the exit status of the check."""
    status, path = int(sys.argv[1]), Path(sys.argv[2])
    try:
        packages = json.loads(path.read_text())["dependencies"]
    except (OSError, ValueError, KeyError):
        print(f"skipped: pip-audit gave no result (exit status {status})")
        return 0
    asked = [package for package in packages if "skip_reason" not in package]
    found = [(p["name"], p["version"], v["id"]) for p in asked for v in p["vulns"]]
    for name, version, advisory in found:
        print(f"{name} {version}: {advisory}")
    if not asked:
        print(f"skipped: the registry has no advisories for any of {len(packages)} packages")
    else:
        print(f"{len(found)} advisories for {len(asked)} of {len(packages)} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
