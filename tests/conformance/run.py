"""Runs the public HTTP suites against the binary and compares with the results that are kept beside this file.

  run.py --bin target/debug            fails on any difference, and on any failure whose cause is not known
  run.py --bin target/debug --write    keeps the new results

REDbot (PyPI) looks at one answer of each kind; http-cache-tests (npm) runs through cache_tests.mjs. Both come from their
registries at the versions below, REDbot into .venvs/conformance, the other into .tools/http-cache-tests.
"""

import argparse
import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REDBOT = "redbot==2.7.1"
CACHE_TESTS = "http-cache-tests@0.4.5"
# A suite that hangs is a failure; the slower one takes about two minutes, most of which it sleeps.
SUITE_MAX_S = 600

URLS = [
    "/acme/m/resolve/main/w.bin",
    "/acme/m/resolve/main/absent.bin",
    "/acme/none/resolve/main/w.bin",
    "/api/models/acme/m",
    "/api/models/acme/m/tree/main?recursive=true",
    "/healthz",
    "/metrics",
    "/",
]

# What REDbot says that is neither praise nor plain information, and why it stays.
REMARKS = {
    "The Content-Disposition field value doesn't conform to its specified syntax.":
        "The semicolon at its end is the Hub's own; file answers carry the Hub's headers letter by letter.",
    "This response allows caches to assign their own freshness lifetimes to it.":
        "The Hub sends no Cache-Control, and neither does the mirror for what it passes on: its clients keep files by commit "
        "and ask for the head each time.",
    "In exceptional circumstances, caches can serve this response stale.": "As above.",
    "The resource could not be found.": "It was meant to be absent.",
}
# What REDbot says of an answer that is as it should be.
GOOD = {
    "The server's clock is correct.",
    "The Content-Length header is correct.",
    "This response allows all caches to store it.",
    "This response cannot be stored by caches.",
    "This response can't be stored by caches.",
    "If-None-Match conditional requests are supported.",
    "This response sets a Content Security Policy.",
    "A ranged request returned the correct partial content.",
}

# Why tests of http-cache-tests fail: (cause, suites or None, pattern of the failure). The first that fits.
CAUSES = [
    ("methods", None, r"status is (403|404|405), not"),
    ("errors", None, r"status is (200|409), not (30[12378]|5\d\d)|status is 200, not 410"),
    ("framing", {"headers"}, r"status is 504, not 200"),
    ("partial", {"partial"}, r""),
    ("conditions", {"conditional-lm", "conditional-inm"}, r"status is 200, not 304"),
    ("freshness", None, r"comes from cache|does not come from cache|Age header|header Age|should have been conditional|wasn't sent"),
    ("headers", None, r"Response \d+ header|[Ww]arning header|header not present|unexpected header"),
    ("requests", None, r"[Rr]equest \d+ (header|doesn't have)|Capability header"),
]
TEXTS = {
    "methods": "The mirror only reads: what would change the Hub is refused with 403, unknown methods with 404. So nothing is "
               "ever invalidated through it.",
    "errors": "A 5xx of upstream, or a redirect without a place, is asked again (the suite's server then gives its next answer, or "
              "says 409 when it has none left), and while a kept answer is usable it is served instead.",
    "framing": "The suite's server names a Transfer-Encoding that does not exist and leaves the connection open, so that its body has "
               "no end; the mirror waits for one as long as it waits for any answer.",
    "partial": "The API has no ranges: a Range is not sent upstream and is ignored. (Files have them; `tests/files.rs` and "
               "REDbot cover those.)",
    "conditions": "API answers have a 304 by their ETag only: Last-Modified is not passed on, and a client's conditions are "
                  "never sent upstream, whose whole answer is wanted.",
    "freshness": "What a branch says is kept for `freshness.revision`, what a commit says for ever, whatever Cache-Control, "
                 "Expires, Pragma, Vary or the request say: the Hub's API sends none of these that mean anything, and its "
                 "clients ask for none. No answer carries Age.",
    "headers": "Of upstream's headers only those go on that Hub clients read (`HEADERS_KEPT`); the rest, such as cookies, "
               "Cache-Control or Expires, is dropped.",
    "requests": "Of a client's headers only the token goes upstream. Everything else would make one answer into many.",
}


class Process:
    """A child that is ended with the block."""

    def __init__(self, *command, **options):
        self.child = subprocess.Popen([str(part) for part in command], text=True, **options)

    def __enter__(self):
        return self.child

    def __exit__(self, *_):
        self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()


class Mirror(Process):
    """A mirror on a free port, in a directory of its own."""

    def __init__(self, binaries, upstream, folder):
        super().__init__(
            binaries / "dingospeed", "serve", "--listen", "127.0.0.1:0", "--repos", folder, "--upstream", upstream,
            "--set", "freshness.revision=1h", "--set", "upstream.api_calls=0", "--set", "log.level=error", stderr=subprocess.PIPE)

    def url(self):
        for line in self.child.stderr:
            if "HF_ENDPOINT=" in line:
                return line.strip().split("HF_ENDPOINT=")[1]
        sys.exit("the mirror did not start")


def tool(name):
    return shutil.which(name) or sys.exit(f"{name} is missing: install it to run `make conformance`")


def install():
    venv = ROOT / ".venvs" / "conformance"
    redbot = venv / "bin" / "redbot"
    if not redbot.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", REDBOT], check=True)
    package = ROOT / ".tools" / "http-cache-tests"
    if not (package / "node_modules").exists():
        package.mkdir(parents=True, exist_ok=True)
        # Scripts of packages have no business here; a package.json keeps npm from looking for one further up.
        (package / "package.json").write_text("{}\n")
        subprocess.run([tool("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", CACHE_TESTS],
                       cwd=package, check=True)
    return redbot, package / "node_modules" / "http-cache-tests"


def run_redbot(redbot, binaries, folder):
    """Returns {url: {"status": .., "notes": [..]}}."""
    hub = Process(binaries / "fake-hub", "--listen", "127.0.0.1:0", "--cdn", "127.0.0.1:0", "--quiet",
                  "--synthetic", "acme/m:w.bin=3MiB", stdout=subprocess.PIPE)
    found = {}
    with hub as child:
        mirror = Mirror(binaries, json.loads(child.stdout.readline())["hub"], folder)
        with mirror:
            base = mirror.url()
            for url in URLS:
                run = subprocess.run([redbot, "-o", "text", base + url], capture_output=True, text=True, timeout=SUITE_MAX_S)
                status = re.search(r"^HTTP/1\.1 (\d+)", run.stdout, re.M)
                notes = re.findall(r"^  \* (.*)$", run.stdout, re.M)
                found[url] = {"status": int(status[1]) if status else run.stdout + run.stderr, "notes": notes}
    return found


def run_cache_tests(package, binaries, folder):
    """Returns {id: {"suite": .., "kind": .., "result": .., "cause": ..}}."""
    node = Process(tool("node"), "--no-warnings", HERE / "cache_tests.mjs", package, stdin=subprocess.PIPE,
                   stdout=subprocess.PIPE)
    with node as child:
        mirror = Mirror(binaries, child.stdout.readline().strip(), folder)
        with mirror:
            results, _ = child.communicate(mirror.url() + "\n", timeout=SUITE_MAX_S)
    results = json.loads(results)
    for result in results.values():
        if result["result"] != "pass":
            result["cause"] = cause(result)
            # A failure's words hold dates and ports; that it fails, and why, is what is compared.
            result["result"] = re.sub(r'"[^"]*"', '".."', result["result"])
    return results


def cause(result):
    for name, suites, pattern in CAUSES:
        if (suites is None or result["suite"] in suites) and re.search(pattern, result["result"]):
            return name
    return "unexplained"


def compare(name, found, write):
    """Returns the differences from what is kept."""
    kept_at = HERE / f"{name}.json"
    if write:
        kept_at.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    kept = json.loads(kept_at.read_text())
    keys = sorted(set(kept) | set(found))
    return [f"{name} {key}: kept {kept.get(key)}, found {found.get(key)}" for key in keys if kept.get(key) != found.get(key)]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bin", type=Path, required=True)
    arguments.add_argument("--write", action="store_true")
    arguments = arguments.parse_args()
    redbot, package = install()
    with tempfile.TemporaryDirectory(prefix="dingospeed-conformance-") as folder:
        notes = run_redbot(redbot, arguments.bin, Path(folder) / "redbot")
        results = run_cache_tests(package, arguments.bin, Path(folder) / "cache")

    wrong = [f"redbot {url}: {note}" for url, found in notes.items() for note in found["notes"]
             if note not in GOOD and note not in REMARKS]
    wrong += [f"http-cache-tests {key}: {result['result']}" for key, result in results.items()
              if result.get("cause") == "unexplained"]
    wrong += compare("redbot", notes, arguments.write) + compare("http-cache-tests", results, arguments.write)

    remarks = collections.Counter(note for found in notes.values() for note in found["notes"] if note in REMARKS)
    print(f"REDbot: {len(notes)} answers")
    for note, count in remarks.most_common():
        print(f"  {count} x {note}\n      {REMARKS[note]}")
    causes = collections.Counter(result.get("cause", "pass") for result in results.values())
    print(f"http-cache-tests: {causes.pop('pass', 0)} of {len(results)} pass; the others:")
    for name, count in causes.most_common():
        print(f"  {count} {name}: {TEXTS.get(name, '?')}")
    for line in wrong:
        print(f"UNEXPECTED {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
