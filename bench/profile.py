#!/usr/bin/env python3
"""Says where the mirror's CPU time goes, by perf: `make profile`, or one load of small, stream, cold: `make profile ARGS=small`.

Prints the costliest functions and writes flame-graph input (perf script's text) to target/profile/. Needs perf and wrk, and
installs them by apt where it may; the kernel must let this user sample (kernel.perf_event_paranoid <= 1, or root).
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from servers import ROOT, TOOLS, Server, install_tools

LOADS = {
    "small": ["wrk", "-t2", "-c64", "-d8s", "http://127.0.0.1:18390/org/m/resolve/main/small.json"],
    "stream": ["wrk", "-t1", "-c8", "-d8s", "http://127.0.0.1:18390/org/m/resolve/main/big.bin"],
    "cold": ["curl", "-sfL", "-o", "/dev/null", "http://127.0.0.1:18390/org/cold/resolve/main/w.bin"],
}


def main():
    asked = sys.argv[1:] or list(LOADS)
    if unknown := [name for name in asked if name not in LOADS]:
        sys.exit(f"profile: no load is named {', '.join(unknown)}; there are {', '.join(LOADS)}")
    TOOLS["perf"] = "linux-perf"
    install_tools()
    out = ROOT / "target" / "profile"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dingospeed-profile-") as work:
        work = pathlib.Path(work)
        (work / "files").mkdir()
        (work / "files" / "small.json").write_bytes(b"{" + b" " * 1021 + b"}\n")
        (work / "files" / "big.bin").write_bytes(os.urandom(1 << 20) * 256)
        log = open(work / "log", "w")
        hub = [ROOT / "target/release/fake-hub", "--listen", "127.0.0.1:18300", "--cdn", "127.0.0.1:18301", "--quiet"]
        hub += ["--model", f"org/m={work}/files", "--synthetic", "org/cold:w.bin=2GiB"]
        mirror = [ROOT / "target/release/dingospeed", "serve", "--listen", "127.0.0.1:18390", "--repos", work / "repos"]
        mirror += ["--upstream", "http://127.0.0.1:18300", "--set", "log.level=warn"]
        servers = [Server("hub", hub, 18300, log)]
        try:
            servers.append(Server("mirror", mirror, 18390, log))
            for load in ("small", "stream"):
                subprocess.run(["curl", "-sf", "-o", "/dev/null", LOADS[load][-1]], check=True)
            for load in asked:
                profile(load, servers[1], out)
        finally:
            for server in servers:
                server.stop()


def profile(load, server, out):
    data = out / f"{load}.data"
    before = server.cpu()
    record = ["perf", "record", "-q", "-F", "499", "--call-graph", "dwarf,8192", "-p", str(server.process.pid), "-o", data]
    recorder = subprocess.Popen([*record, "--", *LOADS[load]], stdout=subprocess.DEVNULL)
    if recorder.wait():
        sys.exit(f"profile: perf or {LOADS[load][0]} failed; may this user sample? sysctl kernel.perf_event_paranoid=1")
    print(f"\n{load}: {server.cpu() - before:.2f} s of CPU; the costliest functions, by themselves:")
    report = ["perf", "report", "-i", data, "--no-children", "--stdio", "-g", "none", "--percent-limit", "1.0"]
    lines = subprocess.run(report, capture_output=True, text=True).stdout.splitlines()
    print("\n".join(line.rstrip()[:160] for line in lines if line.strip() and not line.startswith("#")))
    with open(out / f"{load}.perf", "w") as script:
        subprocess.run(["perf", "script", "-i", data], stdout=script, stderr=subprocess.DEVNULL)
    print(f"for a flame graph: {(out / f'{load}.perf').relative_to(ROOT)} (inferno-collapse-perf, or profiler.firefox.com)")


if __name__ == "__main__":
    main()
