#!/usr/bin/env python3
"""Measures the mirror beside nginx and the origin, in one run, and writes what it found to bench/results/DATE.md.

    make bench                      all rows, 5 rounds each; about half an hour
    make bench ARGS="--rounds 3 --only hits"

Every row compares servers in alternating rounds and reports the median of the rounds' ratios: absolute figures move with
the machine's mood, ratios within a round hardly. CPU is user + system time of all of a server's processes. Needs nginx,
wrk, ab, curl and openssl, and installs them by apt where it may; the release build is made first. Only loopback is loaded.
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
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

from probe import Probe
from servers import ROOT, Server, install_tools, nginx, proxy_cache, say

GIB = 1 << 30
MIB = 1 << 20
PORTS = {"nginx": 18180, "proxy_cache": 18181, "proxy_cold": 18182, "nginx_tls": 18183, "mirror": 18190, "mirror_tls": 18191}
PORTS |= {"hub": 18100, "cdn": 18101, "far_hub": 18110, "far_cdn": 18111, "olah": 18195}
BIG, SMALL = "/org/m/resolve/main/big.bin", "/org/m/resolve/main/small.json"
COLD, HUGE = "/org/cold/resolve/main/w.bin", "/org/cold/resolve/main/huge.bin"
COLD_LEN, HUGE_LEN = 512 * MIB, 10 * GIB
LIMITED = 20_000_000
# Of so many connections to an object, as the mirror is configured without being told.
CONNECTIONS = 8
FAR_MS = 20
OLAH = "olah==0.5.4"
CURL = ["curl", "-sfL", "-o", "/dev/null"]


class Bench:
    def __init__(self, work, rounds):
        self.work, self.rounds, self.rows = work, rounds, []
        self.mirror_log = open(work / "mirror.log", "w")
        self.servers = []

    def setup(self):
        files = self.work / "static" / "org" / "m" / "resolve" / "main"
        files.mkdir(parents=True)
        say("making 1 GiB of test data")
        with open(files / "big.bin", "wb") as out:
            for n in range(GIB // MIB):
                out.write(hashlib.shake_128(n.to_bytes(8, "big")).digest(MIB))
        (files / "small.json").write_bytes(b"{" + b" " * 1021 + b"}\n")
        certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
        certificate += ["-keyout", self.work / "key.pem", "-out", self.work / "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(certificate, check=True, capture_output=True)
        hub = ["--listen", f"127.0.0.1:{PORTS['hub']}", "--cdn", f"127.0.0.1:{PORTS['cdn']}", "--quiet"]
        hub += ["--model", f"org/m={files}"]
        hub += ["--synthetic", "org/cold:w.bin=512MiB", "--synthetic", "org/cold:huge.bin=10GiB"]
        self.hub = self.start_hub("hub", hub)
        self.start_mirror("repos")
        tls = f"listen 127.0.0.1:{PORTS['nginx_tls']} ssl; ssl_protocols TLSv1.3;"
        tls += f" ssl_certificate {self.work}/cert.pem; ssl_certificate_key {self.work}/key.pem;"
        self.nginx = self.add(nginx(self.work, "nginx", PORTS["nginx"], f"root {self.work}/static; {tls}"))
        origin = f"http://127.0.0.1:{PORTS['nginx']}"
        self.proxy_cache = self.add(proxy_cache(self.work, "proxy_cache", PORTS["proxy_cache"], origin, self.work / "cache"))
        self.hit = [self.nginx, self.proxy_cache, self.mirror]
        say("filling the caches, and comparing the bytes")
        wanted = hashlib.sha256((files / "big.bin").read_bytes()).hexdigest()
        for server in self.hit:
            for path in (BIG, SMALL):
                got = hashlib.sha256()
                with urllib.request.urlopen(server.url(path)) as answer:
                    while piece := answer.read(MIB):
                        got.update(piece)
                if path == BIG and got.hexdigest() != wanted:
                    sys.exit(f"bench: {server.name} gave other bytes")

    def add(self, server):
        self.servers.append(server)
        return server

    def start_hub(self, name, arguments):
        log = self.work / f"{name}.log"
        hub = self.add(Server(name, [ROOT / "target/release/fake-hub", *arguments], PORTS[name], open(log, "w")))
        # It answers before it has hashed its files, and says when it has.
        while '"pid"' not in log.read_text():
            time.sleep(0.1)
        return hub

    def start_mirror(self, repos, settings=(), upstream="hub"):
        """Starts the mirror on a directory, in the place of the one that runs."""
        if getattr(self, "mirror", None):
            self.mirror.stop()
        command = [ROOT / "target/release/dingospeed", "serve", "--listen", f"127.0.0.1:{PORTS['mirror']}"]
        command += ["--repos", self.work / repos, "--upstream", f"http://127.0.0.1:{PORTS[upstream]}"]
        command += ["--set", "log.level=warn", "--set", "upstream.api_calls=0", "--set", "upstream.resolver_calls=0"]
        command += ["--set", "freshness.revision=1h", "--set", "freshness.access=1h"]
        for setting in settings:
            command += ["--set", setting]
        new = Server("mirror", command, PORTS["mirror"], self.mirror_log)
        if getattr(self, "mirror", None):
            # Those who hold the old one look at the new.
            self.mirror.process, self.mirror.start_seconds = new.process, new.start_seconds
        else:
            self.mirror = self.add(new)
        self.start_memory = self.mirror.anonymous()

    def start_cold(self, upstream="hub"):
        shutil.rmtree(self.work / "cold", ignore_errors=True)
        self.start_mirror("cold", upstream=upstream)

    def compare(self, name, goal, servers, measure):
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
                self.row(name, figure, server.name, statistics.median(ratios) if ratios else None, servers[0].name, own, goal)

    def row(self, name, figure, server, ratio, base, own, goal):
        self.rows.append((name, figure, server, ratio, base, own, goal))
        told = f"{ratio:.2f} x {base}" if ratio is not None else f"{own:.4g}"
        say(f"{name}: {figure} of {server} = {told} ({own:.4g})")

    def streams(self, server, count, url=None, size=GIB, options=()):
        before, began = server.cpu(), time.monotonic()
        curls = [subprocess.Popen([*CURL, *options, url or server.url(BIG)]) for _ in range(count)]
        if any([curl.wait() for curl in curls]):
            sys.exit(f"bench: curl failed on {server.name}")
        took = time.monotonic() - began
        return {"MB/s": count * size / took / 1e6, "CPU s/GiB": (server.cpu() - before) / (count * size / GIB)}

    def wrk(self, server, script, connections, seconds=4, path=SMALL):
        lua = self.work / "script.lua"
        lua.write_text(script)
        before = server.cpu()
        command = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(lua), server.url(path)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        requests = float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1))
        errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        if errors:
            sys.exit(f"bench: {server.name} refused {errors.group(1)} requests\n{out}")
        unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
        value, scale = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()
        cpu = (server.cpu() - before) / (requests * seconds) * 1e6
        return {"requests/s": requests, "CPU us/request": cpu, "p99 ms": float(value) * unit[scale]}

    def ab(self, server, count=60_000):
        """HEADs; wrk waits for the body that their length announces."""
        before = server.cpu()
        command = ["ab", "-q", "-i", "-k", "-c64", f"-n{count}", server.url(SMALL)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if re.search(r"Non-2xx responses", out):
            sys.exit(f"bench: {server.name} refused HEADs\n{out}")
        rate = float(re.search(r"Requests per second:\s+([\d.]+)", out).group(1))
        return {"requests/s": rate, "CPU us/request": (server.cpu() - before) / count * 1e6}

    # Rows.

    def hits(self):
        goal = ">= 1.5 x nginx, CPU <= 0.75 x"
        self.compare("hit, 1 stream of 1 GiB", goal, self.hit, lambda server: self.streams(server, 1))
        goal = ">= 1.1 x nginx, CPU <= 1.0 x"
        self.compare("hit, 8 streams", goal, self.hit, lambda server: self.streams(server, 8))
        script = (
            "math.randomseed(os.time()); request = function() local s = math.random(0, 126) * 8388608;"
            ' return wrk.format("GET", nil, {["Range"] = "bytes=" .. s .. "-" .. (s + 8388607)}) end'
        )
        ranges = lambda server: self.wrk(server, script, 16, path=BIG)
        self.compare("hit, random 8 MiB ranges, 16 connections", ">= 1.1 x nginx", self.hit, ranges)

    def small(self):
        goal = ">= 0.85 x nginx, >= 1.0 x proxy_cache"
        self.compare("1 KiB GET, 64 connections", goal, self.hit, lambda server: self.wrk(server, "", 64))
        self.compare("1 KiB HEAD, 64 connections", goal, self.hit, self.ab)

    def first_byte(self):
        def measure(server):
            command = [*CURL, "--limit-rate", "8M", server.url(BIG)]
            curls = [subprocess.Popen(command) for _ in range(64)]
            time.sleep(1)
            probe = Probe(server.port, BIG)
            for n in range(300):
                start = (n * 7919 % 1023) * MIB
                probe.once((start, start + 65535))
            for curl in curls:
                curl.kill()
                curl.wait()
            return {"p50 ms": probe.p50() * 1e3, "p99 ms": probe.p99() * 1e3}

        self.compare("first byte of 64 KiB, beside 64 streams of 8 MiB/s", "<= 1.5 x nginx", self.hit, measure)

    def tls(self):
        settings = [f"tls.listen=127.0.0.1:{PORTS['mirror_tls']}"]
        settings += [f"tls.certificate={self.work}/cert.pem", f"tls.key={self.work}/key.pem"]
        self.start_mirror("repos", settings)
        ports = {"nginx": PORTS["nginx_tls"], "mirror": PORTS["mirror_tls"]}
        measure = lambda server: self.streams(
            server, 1, f"https://127.0.0.1:{ports[server.name]}{BIG}", options=["--http1.1", "--cacert", str(self.work / "cert.pem")]
        )
        self.compare("hit over TLS 1.3, 1 stream", ">= 1.3 x nginx", [self.nginx, self.mirror], measure)
        self.start_mirror("repos")

    def cold_disk(self):
        """Small hits while another client reads a file that has left the page cache."""
        blobs = [path for path in (self.work / "repos").rglob("*") if path.is_file() and path.stat().st_size > GIB]
        files = {"nginx": [self.work / "static" / BIG[1:]], "mirror": blobs}

        def measure(server):
            for path in files[server.name]:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            probe = Probe(server.port, SMALL)
            took = probe.during(lambda: self.streams(server, 1))
            return {"p99 ms": probe.p99() * 1e3, "MB/s": took["MB/s"]}

        self.compare("small hits beside a read from disk", "p99 <= 50 ms", [self.nginx, self.mirror], measure)

    def cold(self):
        # nginx does not follow redirects, so its origin is where they lead.
        found = urllib.request.urlopen(self.hub.url(COLD))
        bytes_at = found.geturl()
        found.close()
        origin = f"http://127.0.0.1:{PORTS['cdn']}"
        cache = self.work / "cold_cache"
        self.proxy_cold = self.add(proxy_cache(self.work, "proxy_cold", PORTS["proxy_cold"], origin, cache))

        def clear():
            for path in cache.glob("*"):
                shutil.rmtree(path)
            # What it holds in memory of what was on the disk is forgotten by a restart only.
            self.proxy_cold.stop()
            new = proxy_cache(self.work, "proxy_cold", PORTS["proxy_cold"], origin, cache)
            self.proxy_cold.process = new.process

        def pull_through(server):
            self.touch_memory()
            if server is self.proxy_cold:
                clear()
                return self.streams(server, 1, server.url(bytes_at.removeprefix(origin)), COLD_LEN)
            if server is self.mirror:
                self.start_cold()
            return self.streams(server, 1, server.url(COLD), COLD_LEN)

        goal = ">= 0.85 x the origin"
        self.compare("cold pull, unlimited origin", goal, [self.hub, self.proxy_cold, self.mirror], pull_through)
        goal = "CPU <= 2.5 x nginx proxy_cache"
        self.compare("cold pull, unlimited origin", goal, [self.proxy_cold, self.mirror], pull_through)
        self.limit("w.bin")
        goal = ">= 6 x one connection"
        self.compare("cold pull, 20 MB/s per connection", goal, [self.hub, self.mirror], pull_through)
        self.control("__reset", {})

    def touch_memory(self):
        """Has a virtual machine's host give the memory that the page cache is about to take. The first touch of a page costs up to ten
        times what writing it does (1 GiB by dd: 0.24 s, or up to 2.7 s), and whose turn it comes in is chance."""
        path = self.work / "touched"
        with open(path, "wb") as out:
            for _ in range(1536):
                out.write(bytes(MIB))
        path.unlink()

    def limit(self, match, rate=LIMITED):
        fault = {"match": match, "kind": "rate", "bytes_per_second": rate, "listener": "cdn"}
        self.control("__fault", fault)

    def steady(self):
        """Speed over time, each origin connection limited."""
        self.limit("w.bin")
        worst = []
        for _ in range(self.rounds):
            self.start_cold()
            arrived, began = [], time.monotonic()
            with urllib.request.urlopen(self.mirror.url(COLD)) as answer:
                while piece := answer.read(256 << 10):
                    second = int(time.monotonic() - began)
                    arrived.extend([0] * (second + 1 - len(arrived)))
                    arrived[second] += len(piece)
            whole = arrived[:-1]
            worst.append(min(whole) / statistics.median(whole))
        name = "cold pull, 20 MB/s per connection"
        self.row(name, "slowest second / median second", "mirror", None, "-", statistics.median(worst), ">= 0.5")
        self.control("__reset", {})

    def crowd(self):
        """64 clients of one cold file, beside a small hit; and what nginx makes of 64 clients that take a warm one at that pace."""
        for rate in (LIMITED, LIMITED // 4):
            self.crowd_at(rate)

    def crowd_at(self, rate):
        self.limit("w.bin", rate)
        alone, together, origin, p99, warm, warm_p99 = [], [], [], [], [], []
        for _ in range(min(self.rounds, 3)):
            probe = Probe(PORTS["nginx"], SMALL)
            pace = ["-r", f"0-{COLD_LEN - 1}", "--limit-rate", str(CONNECTIONS * rate)]
            began = time.monotonic()
            probe.during(lambda: self.streams(self.nginx, 64, size=COLD_LEN, options=pace))
            warm.append(time.monotonic() - began)
            warm_p99.append(probe.p99() * 1e3)
            self.start_cold()
            began = time.monotonic()
            self.streams(self.mirror, 1, self.mirror.url(COLD), COLD_LEN)
            alone.append(time.monotonic() - began)
            self.start_cold()
            urllib.request.urlopen(self.mirror.url(SMALL)).read()
            before = self.stats()["cdn"]["bytes"]
            probe = Probe(PORTS["mirror"], SMALL)
            began = time.monotonic()
            probe.during(lambda: self.streams(self.mirror, 64, self.mirror.url(COLD), COLD_LEN))
            together.append(time.monotonic() - began)
            origin.append((self.stats()["cdn"]["bytes"] - before) / COLD_LEN)
            p99.append(probe.p99() * 1e3)
        name = f"64 clients, one cold file of 512 MiB, {rate // 1_000_000} MB/s per connection"
        self.row(name, "bytes from the origin / file", "mirror", None, "-", statistics.median(origin), "<= 1.01")
        self.row(name, "s of one client", "mirror", None, "-", statistics.median(alone), "-")
        ratio = statistics.median(many / one for many, one in zip(together, alone))
        self.row(name, "time of all / of one client", "mirror", None, "-", ratio, "<= 1.3")
        self.row(name, "p99 ms of a small hit meanwhile", "mirror", None, "-", statistics.median(p99), "< 100 ms")
        name = f"64 clients, 512 MiB of a warm file, {CONNECTIONS * rate // 1_000_000} MB/s each"
        self.row(name, "s until all have it", "nginx", None, "-", statistics.median(warm), "-")
        self.row(name, "p99 ms of a small hit meanwhile", "nginx", None, "-", statistics.median(warm_p99), "-")
        self.control("__reset", {})

    def middle(self):
        """8 bytes in the middle of a cold file of 10 GiB."""
        asked = []

        def measure(server):
            if server is self.mirror:
                self.start_cold()
            before = self.stats()["cdn"]["bytes"]
            start = 5 * GIB + 12345
            began = time.monotonic()
            request = urllib.request.Request(server.url(HUGE), headers={"Range": f"bytes={start}-{start + 7}"})
            if len(urllib.request.urlopen(request).read()) != 8:
                sys.exit(f"bench: {server.name} gave another range")
            took = time.monotonic() - began
            if server is self.mirror:
                time.sleep(0.2)
                asked.append((self.stats()["cdn"]["bytes"] - before) / MIB)
            return {"first byte ms": took * 1e3}

        name = "8 bytes of a cold file of 10 GiB"
        self.compare(name, "<= 2 x the origin", [self.hub, self.mirror], measure)
        self.row(name, "MiB from the origin", "mirror", None, "-", statistics.median(asked), "<= 1")

        # On loopback it is our own work that counts, and to a Hub in another town the way there.
        far = ["--listen", f"127.0.0.1:{PORTS['far_hub']}", "--cdn", f"127.0.0.1:{PORTS['far_cdn']}", "--quiet", "--unhashed"]
        far += ["--latency", str(FAR_MS), "--synthetic", "org/cold:huge.bin=10GiB"]
        far_hub = self.start_hub("far_hub", far)

        def measure_far(server):
            if server is self.mirror:
                self.start_cold("far_hub")
            began = time.monotonic()
            request = urllib.request.Request(server.url(HUGE), headers={"Range": f"bytes={5 * GIB}-{5 * GIB + 7}"})
            if len(urllib.request.urlopen(request).read()) != 8:
                sys.exit(f"bench: {server.name} gave another range")
            return {"first byte ms": (time.monotonic() - began) * 1e3}

        name = f"8 bytes of a cold file of 10 GiB, origin {FAR_MS} ms away"
        self.compare(name, "<= 2 x the origin", [far_hub, self.mirror], measure_far)

    def memory(self):
        say("memory with 64 warm and 8 cold slow readers, and 1,000 idle connections")
        self.start_mirror("repos")
        urls = [self.mirror.url(BIG)] * 64 + [self.mirror.url(f"{HUGE}")] * 8
        curls = [subprocess.Popen([*CURL, "--limit-rate", "200K", url]) for url in urls]
        idle = [Probe(PORTS["mirror"], SMALL) for _ in range(1000)]
        for probe in idle:
            probe.once()
        time.sleep(6)
        grown = self.mirror.anonymous() - self.start_memory
        for curl in curls:
            curl.kill()
            curl.wait()
        for probe in idle:
            probe.connection.close()
        name = "anonymous memory above start, 64 warm and 8 cold slow streams, 1,000 idle connections"
        self.row(name, "MiB", "mirror", None, "-", grown / MIB, "<= 64 MiB")

    def start(self):
        """The first answer of a mirror that holds a million objects."""
        say("making 1,000,000 objects")
        blobs = next(path for path in (self.work / "repos").rglob("*") if path.is_file() and path.stat().st_size > GIB)
        place = blobs.relative_to(self.work / "repos").parts
        sample = next(path for path in blobs.parents if path.name == "blobs") if "blobs" in place else blobs.parent
        depth = blobs.relative_to(sample).parts
        root = self.work / "many" / sample.relative_to(self.work / "repos")
        small = min((path for path in sample.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        self.start_mirror("many")
        source = self.work / "many" / "sample"
        shutil.copy(small, source)
        for n in range(1_000_000):
            name = hashlib.sha256(n.to_bytes(8, "big")).hexdigest()
            path = root / name[:2] / name if len(depth) > 1 else root / name
            if n < 256 * 16:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, path)
            except OSError:
                # A file system has its own limit of names for one file.
                source = path
                shutil.copy(small, path)
        source = self.work / "many" / "sample"
        source.unlink()
        times = []
        for _ in range(self.rounds):
            self.start_mirror("many")
            times.append(self.mirror.start_seconds)
        self.row("start with 1,000,000 objects", "s to the first answer", "mirror", None, "-", statistics.median(times), "< 1 s")
        self.start_mirror("repos")
        shutil.rmtree(self.work / "many")

    def peer(self):
        """Olah, as PyPI has it, in the mirror's place."""
        place = ROOT / "target" / "olah"
        if not (place / "bin" / "olah-cli").exists():
            say(f"installing {OLAH} from PyPI")
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            subprocess.run([place / "bin" / "pip", "install", "-q", OLAH], check=True)
        log = open(self.work / "olah.log", "w")
        own, hub, cdn = (f"127.0.0.1:{PORTS[name]}" for name in ("olah", "hub", "cdn"))
        command = [place / "bin" / "olah-cli", "--host", "127.0.0.1", "--port", str(PORTS["olah"]), "--hf-scheme", "http"]
        command += ["--hf-netloc", hub, "--hf-lfs-netloc", cdn, "--mirror-scheme", "http", "--mirror-netloc", own]
        command += ["--mirror-lfs-netloc", own, "--log-path", self.work / "olah_logs", "--repos-path"]

        def start(repos):
            shutil.rmtree(self.work / repos, ignore_errors=True)
            return Server("olah", [*command, self.work / repos], PORTS["olah"], log)

        olah = self.add(start("olah_repos"))
        for path in (BIG, SMALL):
            subprocess.run([*CURL, olah.url(path)], check=True)
        both = [olah, self.mirror]
        self.compare("beside Olah: hit, 1 stream of 1 GiB", "-", both, lambda server: self.streams(server, 1))
        self.compare("beside Olah: hit, 8 streams", "-", both, lambda server: self.streams(server, 8))
        self.compare("beside Olah: 1 KiB GET, 64 connections", "-", both, lambda server: self.wrk(server, "", 64))

        def pull_through(server):
            if server is self.mirror:
                self.start_cold()
            else:
                olah.stop()
                olah.process = start("olah_cold").process
            return self.streams(server, 1, server.url(COLD), COLD_LEN)

        self.compare("beside Olah: cold pull", "-", both, pull_through)
        olah.stop()
        self.servers.remove(olah)
        self.start_mirror("repos")

    def stats(self):
        return json.load(urllib.request.urlopen(self.hub.url("/__stats")))

    def control(self, path, body):
        urllib.request.urlopen(urllib.request.Request(self.hub.url(f"/{path}"), json.dumps(body).encode(), method="POST")).read()

    def report(self, began):
        version = lambda command: subprocess.run(command, capture_output=True, text=True)
        nginx_version = version(["nginx", "-v"]).stderr.strip()
        commit = version(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).stdout.strip()
        arguments = " ".join(sys.argv[1:])
        lines = [
            f"# {began:%Y-%m-%d %H:%M}, commit {commit}",
            "",
            f"{platform.platform()}, {os.cpu_count()} cores, load {self.load_before:.1f} before and {os.getloadavg()[0]:.1f} at the"
            f" end; {nginx_version}; {self.rounds} rounds; `make bench{f' ARGS={arguments!r}' if arguments else ''}`",
            "",
            "| what | figure | server | ratio | to | median | goal |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, figure, server, ratio, base, own, goal in self.rows:
            told = "-" if ratio is None else f"{ratio:.2f}"
            lines.append(f"| {name} | {figure} | {server} | {told} | {base} | {own:.4g} | {goal} |")
        text = "\n".join(lines) + "\n"
        results = ROOT / "bench" / "results"
        results.mkdir(exist_ok=True)
        path = results / f"{began:%Y-%m-%d-%H%M}.md"
        path.write_text(text)
        print(text)
        say(f"written to {path.relative_to(ROOT)}")

    def stop(self):
        for server in self.servers:
            server.stop()


ROWS = ["hits", "small", "first_byte", "tls", "cold_disk", "cold", "steady", "crowd", "middle", "memory", "peer", "start"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=ROWS, action="append")
    asked = parser.parse_args()
    install_tools()
    began = datetime.datetime.now()
    with tempfile.TemporaryDirectory(prefix="dingospeed-bench-", dir=os.environ.get("BENCH_DIR")) as work:
        bench = Bench(pathlib.Path(work), asked.rounds)
        bench.load_before = os.getloadavg()[0]
        try:
            bench.setup()
            for part in asked.only or ROWS:
                getattr(bench, part)()
            bench.report(began)
        finally:
            bench.stop()


if __name__ == "__main__":
    main()
