#!/usr/bin/env python3
"""Measures the mirror beside nginx and the origin, in one run, and writes what it found to bench/results/DATE.md.

    make bench                      all rows, 5 rounds each
    make bench ARGS="--rounds 3 --only hit"

Every row compares servers in alternating rounds and reports the median of the rounds' ratios: absolute figures move with
the machine's mood, ratios within a round hardly. CPU is user + system time of all of a server's processes. Needs nginx,
wrk and curl, and installs them by apt where it may; the release build is made first. Only loopback is loaded.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
GIB = 1 << 30
MIB = 1 << 20
PORTS = {"nginx": 18180, "proxy_cache": 18181, "mirror": 18190, "hub": 18100, "cdn": 18101}
TOOLS = {"nginx": "nginx-light", "wrk": "wrk", "curl": "curl"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def install_tools():
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if missing:
        say(f"installing {' '.join(missing)}")
        done = subprocess.run(["apt-get", "-qqy", "install", *missing], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"bench: needs {', '.join(missing)}: apt-get install {' '.join(missing)}\n{done.stderr}")


class Server:
    """A server under test: its processes' CPU time and memory."""

    def __init__(self, name, command, port, log):
        self.name, self.port = name, port
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait()

    def wait(self):
        for _ in range(100):
            if self.process.poll() is not None:
                sys.exit(f"bench: {self.name} ended with {self.process.returncode}; its log is in the work directory")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2).read()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"bench: {self.name} does not answer on port {self.port}")

    def pids(self):
        pids = [self.process.pid]
        listed = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return pids + [int(pid) for pid in listed.split()]

    def cpu(self):
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def anonymous(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", text).group(1)) * 1024

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


NGINX = """
{user} worker_processes 2; daemon off; pid {work}/{name}.pid; error_log {work}/{name}.err;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; open_file_cache max=1000;
  client_body_temp_path {work}/t1; fastcgi_temp_path {work}/t2; uwsgi_temp_path {work}/t3; scgi_temp_path {work}/t4;
  proxy_temp_path {work}/t5; {extra}
  server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


def nginx(work, name, port, server, extra=""):
    conf = work / f"{name}.conf"
    # Started by root it would change to a user who may not read the work directory.
    user = "user root;" if os.getuid() == 0 else ""
    conf.write_text(NGINX.format(user=user, work=work, name=name, port=port, server=server, extra=extra))
    log = open(work / f"{name}.log", "w")
    return Server(name, ["nginx", "-p", str(work), "-c", str(conf)], port, log)


class Bench:
    def __init__(self, work, rounds):
        self.work, self.rounds, self.rows = work, rounds, []
        self.mirror_log = open(work / "mirror.log", "w")

    def setup(self):
        files = self.work / "static" / "org" / "m" / "resolve" / "main"
        files.mkdir(parents=True)
        say("making 1 GiB of test data")
        with open(files / "big.bin", "wb") as out:
            for n in range(GIB // MIB):
                out.write(hashlib.shake_128(n.to_bytes(8)).digest(MIB))
        (files / "small.json").write_bytes(b"{" + b" " * 1021 + b"}\n")
        self.files = files
        hub = ["--listen", f"127.0.0.1:{PORTS['hub']}", "--cdn", f"127.0.0.1:{PORTS['cdn']}", "--quiet"]
        hub += ["--model", f"org/m={files}", "--synthetic", f"org/cold:w.bin=512MiB"]
        self.hub = Server("hub", [ROOT / "target/release/fake-hub", *hub], PORTS["hub"], open(self.work / "hub.log", "w"))
        self.start_mirror("repos")
        self.nginx = nginx(self.work, "nginx", PORTS["nginx"], f"root {self.work}/static;")
        origin = f"http://127.0.0.1:{PORTS['nginx']}"
        cache = f"proxy_cache_path {self.work}/cache levels=1:2 keys_zone=c:10m max_size=10g inactive=1h use_temp_path=off;"
        through = (
            "location / { slice 8m; proxy_cache c; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
            f" proxy_http_version 1.1; proxy_cache_valid 200 206 1h; proxy_pass {origin}; }}"
        )
        self.proxy_cache = nginx(self.work, "proxy_cache", PORTS["proxy_cache"], through, cache)
        self.hit = [self.nginx, self.proxy_cache, self.mirror]
        say("filling the caches, and comparing the bytes")
        wanted = hashlib.sha256((files / "big.bin").read_bytes()).hexdigest()
        for server in self.hit:
            for name in ("big.bin", "small.json"):
                url = f"http://127.0.0.1:{server.port}/org/m/resolve/main/{name}"
                got = hashlib.sha256()
                with urllib.request.urlopen(url) as answer:
                    while piece := answer.read(MIB):
                        got.update(piece)
                if name == "big.bin" and got.hexdigest() != wanted:
                    sys.exit(f"bench: {server.name} gave other bytes")

    def start_mirror(self, repos):
        command = [ROOT / "target/release/dingospeed", "serve", "--listen", f"127.0.0.1:{PORTS['mirror']}"]
        command += ["--repos", self.work / repos, "--upstream", f"http://127.0.0.1:{PORTS['hub']}"]
        command += ["--set", "log.level=warn", "--set", "upstream.api_calls=0", "--set", "upstream.resolver_calls=0"]
        command += ["--set", "freshness.revision=1h", "--set", "freshness.access=1h"]
        self.mirror = Server("mirror", command, PORTS["mirror"], self.mirror_log)
        self.start_memory = self.mirror.anonymous()

    def compare(self, name, goal, servers, measure, better):
        """Runs `measure(server)` in alternating rounds; it returns figures by name. Keeps medians of the ratios to the first."""
        found = {server.name: [] for server in servers}
        for _ in range(self.rounds):
            for server in servers:
                found[server.name].append(measure(server))
        base = found[servers[0].name]
        for server in servers[1:]:
            for figure in base[0]:
                ratios = [mine[figure] / theirs[figure] for mine, theirs in zip(found[server.name], base) if theirs[figure]]
                own = statistics.median(run[figure] for run in found[server.name])
                row = (name, figure, server.name, servers[0].name, statistics.median(ratios) if ratios else 0.0, own, goal)
                self.rows.append(row)
                say(f"{name}: {figure} {server.name} / {servers[0].name} = {row[4]:.2f}  ({own:.4g} {better})")

    def streams(self, server, count, target="big.bin", size=GIB):
        url = f"http://127.0.0.1:{server.port}/org/m/resolve/main/{target}"
        before, began = server.cpu(), time.monotonic()
        curls = [subprocess.Popen(["curl", "-s", "-o", "/dev/null", url]) for _ in range(count)]
        if any(curl.wait() for curl in curls):
            sys.exit(f"bench: curl failed on {server.name}")
        took = time.monotonic() - began
        return {"MB/s": count * size / took / 1e6, "CPU s/GiB": (server.cpu() - before) / (count * size / GIB)}

    def wrk(self, server, script, connections, seconds=4, target="small.json"):
        url = f"http://127.0.0.1:{server.port}/org/m/resolve/main/{target}"
        lua = self.work / "script.lua"
        lua.write_text(script)
        before = server.cpu()
        command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(lua), url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        requests = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        if errors:
            sys.exit(f"bench: {server.name} refused {errors.group(1)} requests\n{out}")
        unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
        value, scale = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()
        return {
            "requests/s": requests,
            "CPU us/request": (server.cpu() - before) / (requests * seconds) * 1e6,
            "p99 ms": float(value) * unit[scale],
        }

    def hits(self):
        goal = ">= 1.5 x nginx, CPU <= 0.75 x"
        self.compare("hit, 1 stream of 1 GiB", goal, self.hit, lambda server: self.streams(server, 1), "MB/s or s/GiB")
        goal = ">= 1.1 x nginx, CPU <= 1.0 x"
        self.compare("hit, 8 streams", goal, self.hit, lambda server: self.streams(server, 8), "MB/s or s/GiB")
        script = (
            "math.randomseed(os.time()); request = function() local s = math.random(0, 126) * 8388608;"
            ' return wrk.format("GET", nil, {["Range"] = "bytes=" .. s .. "-" .. (s + 8388607)}) end'
        )
        ranges = lambda server: self.wrk(server, script, 16, target="big.bin")
        self.compare("hit, random 8 MiB ranges, 16 connections", ">= 1.1 x nginx", self.hit, ranges, "")

    def small(self):
        # No row for HEAD: wrk waits for the body that its length announces.
        goal = ">= 0.85 x nginx, >= 1.0 x proxy_cache"
        self.compare("1 KiB GET, 64 connections", goal, self.hit, lambda server: self.wrk(server, "", 64), "")

    def cold(self):
        origin = self.hub

        def pull(server):
            if server is self.mirror:
                self.mirror.stop()
                shutil.rmtree(self.work / "cold", ignore_errors=True)
                self.start_mirror("cold")
                server = self.mirror
            before, began = server.cpu(), time.monotonic()
            url = f"http://127.0.0.1:{server.port}/org/cold/resolve/main/w.bin"
            subprocess.run(["curl", "-sL", "-o", "/dev/null", url], check=True)
            took = time.monotonic() - began
            return {"MB/s": 512 * MIB / took / 1e6, "CPU s/GiB": (server.cpu() - before) * 2}

        self.compare("cold pull, unlimited origin", ">= 0.85 x the origin", [origin, self.mirror], pull, "MB/s or s/GiB")
        fault = {"match": "w.bin", "kind": "rate", "bytes_per_second": 20_000_000, "listener": "cdn"}
        self.control("__fault", fault)
        self.compare("cold pull, 20 MB/s per connection", ">= 6 x one connection", [origin, self.mirror], pull, "MB/s or s/GiB")
        self.control("__reset", {})

    def control(self, path, body):
        url = f"http://127.0.0.1:{PORTS['hub']}/{path}"
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), method="POST")).read()

    def memory(self):
        say("memory with 64 slow readers")
        url = f"http://127.0.0.1:{PORTS['mirror']}/org/m/resolve/main/big.bin"
        curls = [subprocess.Popen(["curl", "-s", "--limit-rate", "200K", "-o", "/dev/null", url]) for _ in range(64)]
        time.sleep(4)
        grown = self.mirror.anonymous() - self.start_memory
        for curl in curls:
            curl.kill()
            curl.wait()
        self.rows.append(("anonymous memory above start, 64 slow warm streams", "MiB", "mirror", "-", 0.0, grown / MIB, "<= 64 MiB"))

    def report(self, began):
        version = lambda command: subprocess.run(command, capture_output=True, text=True)
        nginx_version = version(["nginx", "-v"]).stderr.strip()
        commit = version(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).stdout.strip()
        lines = [
            f"# {began:%Y-%m-%d %H:%M}, commit {commit}",
            "",
            f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; {nginx_version};"
            f" {self.rounds} rounds; `make bench ARGS=\"{' '.join(sys.argv[1:])}\"`",
            "",
            "| what | figure | server | ratio | to | median | goal |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figure, server, base, ratio, own, goal in self.rows:
            lines.append(f"| {name} | {figure} | {server} | {ratio:.2f} | {base} | {own:.4g} | {goal} |")
        text = "\n".join(lines) + "\n"
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{began:%Y-%m-%d-%H%M}.md"
        path.write_text(text)
        print(text)
        say(f"written to {path.relative_to(ROOT)}")

    def stop(self):
        for name in ("mirror", "proxy_cache", "nginx", "hub"):
            if server := getattr(self, name, None):
                server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["hits", "small", "memory", "cold"], action="append")
    asked = parser.parse_args()
    install_tools()
    began = datetime.datetime.now()
    with tempfile.TemporaryDirectory(prefix="dingospeed-bench-", dir=os.environ.get("BENCH_DIR")) as work:
        bench = Bench(pathlib.Path(work), asked.rounds)
        try:
            bench.setup()
            for part in asked.only or ["hits", "small", "memory", "cold"]:
                getattr(bench, part)()
            bench.report(began)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
