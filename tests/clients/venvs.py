#!/usr/bin/env python3
"""Makes the Python environments that the tests and the demo run in.

    python3 tests/clients/venvs.py             those of `make test`, into .venvs/<name>
    python3 tests/clients/venvs.py hub-2.4.0   only this one; `libraries`, which is large, is only made when it is named

One environment per file in requirements/. An environment that was made from the same file by the same Python is left
alone, so a second run takes no time. Needs Python 3.11 or newer and PyPI; nothing else on the machine is changed, but
for Debian's `python3-venv`, which is installed when it is missing and this runs as root or with a silent sudo.
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
VENVS = ROOT / ".venvs"
OLDEST = (3, 11)
# Half a gigabyte; `make test` goes without.
LARGE = {"libraries"}
# What an environment is there for, when that is not the Hub's client.
PURPOSE = {"browser": "playwright", "deploy": "kubernetes_validate"}


def main() -> int:
    # Containers run as root; pip's warning about that is no news in an environment of our own.
    os.environ["PIP_ROOT_USER_ACTION"] = "ignore"
    known = {path.stem for path in (HERE / "requirements").glob("*.txt")}
    names = sys.argv[1:] or sorted(known - LARGE)
    python = find_python()
    for name in names:
        requirements = HERE / "requirements" / f"{name}.txt"
        if not requirements.exists():
            sys.exit(f"venvs: no such environment: {name} (there is no {requirements})")
        make(name, requirements, python)
    return 0


def make(name: str, requirements: Path, python: str) -> None:
    """Leaves .venvs/<name> installed. Its stamp is written last, so a broken run starts over."""
    folder = VENVS / name
    stamp = folder / "stamp"
    wanted = hashlib.sha256(requirements.read_bytes() + version_of(python).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and works(folder / "bin" / "python", PURPOSE.get(name, "huggingface_hub")):
        return

    began = time.monotonic()
    say(f"{name}: installing")
    shutil.rmtree(folder, ignore_errors=True)
    VENVS.mkdir(exist_ok=True)
    create(folder, python)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
    for attempt in (1, 2, 3):
        if subprocess.run([*pip, "--requirement", requirements]).returncode == 0:
            break
        say(f"{name}: pip failed (attempt {attempt} of 3)")
        time.sleep(2 * attempt)
    else:
        sys.exit(
            f"venvs: {name} could not be installed. What pip said is above; it needs PyPI, or a mirror of it named in "
            f"PIP_INDEX_URL, or the wheels of {requirements.relative_to(ROOT)} in a folder named in PIP_FIND_LINKS."
        )
    stamp.write_text(wanted)
    say(f"{name}: ready after {time.monotonic() - began:.0f} s")


def create(folder: Path, python: str) -> None:
    """Creates an empty environment. Debian ships Python without `ensurepip`, which is why there are three ways."""
    if venv(folder, python):
        return
    if apt_install("python3-venv") and venv(folder, python):
        return
    # Pip alone is enough: virtualenv brings its own pip. Its folder is beside ours, the system's Python stays as it is.
    aside = ROOT / ".tools" / "virtualenv"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--target", aside, "virtualenv"])
    environment = os.environ | {"PYTHONPATH": str(aside)}
    if subprocess.run([python, "-m", "virtualenv", "--quiet", folder], env=environment).returncode == 0:
        return
    sys.exit(
        f"venvs: {python} can make no virtual environment. Install its venv module (Debian and Ubuntu: "
        f"`apt-get install python3-venv`), or set PYTHON to a Python that has one: `make test PYTHON=/path/to/python3.11`."
    )


def venv(folder: Path, python: str) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return subprocess.run([python, "-m", "venv", folder], capture_output=True).returncode == 0


def apt_install(package: str) -> bool:
    apt = shutil.which("apt-get")
    if not apt:
        return False
    if os.geteuid() == 0:
        as_root = []
    elif shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        as_root = ["sudo", "-n"]
    else:
        return False
    say(f"apt-get install {package}")
    quick = ["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]
    subprocess.run([*as_root, apt, *quick, "-qq", "update"], stdout=subprocess.DEVNULL)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run([*as_root, apt, *quick, "-qqy", "install", package], env=environment, stdout=subprocess.DEVNULL)
    return done.returncode == 0


def find_python() -> str:
    """Returns the Python that runs this file if it is new enough, else the first on PATH that is."""
    if sys.version_info >= OLDEST:
        return sys.executable
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and version_of(found):
            return found
    sys.exit(
        f"venvs: Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, and {sys.executable} is {sys.version.split()[0]}. "
        "Install one, or name it: `make test PYTHON=/path/to/python3.11`."
    )


def version_of(python: str) -> str:
    asked = subprocess.run([python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def works(python: Path, module: str) -> bool:
    # An environment whose base Python was removed or upgraded in place still exists but cannot start.
    try:
        return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0
    except OSError:
        return False


def say(line: str) -> None:
    print(f"venvs: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
