"""The servers that are compared, and what they cost: nginx in three roles, the fake Hub, the mirror."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = {"nginx": "nginx-light", "wrk": "wrk", "curl": "curl", "ab": "apache2-utils", "openssl": "openssl"}


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
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.wait()
        self.start_seconds = time.monotonic() - began

    def wait(self):
        for _ in range(3000):
            if self.process.poll() is not None:
                sys.exit(f"bench: {self.name} ended with {self.process.returncode}; its log is in the work directory")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=10).read()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.01)
        sys.exit(f"bench: {self.name} does not answer on port {self.port}")

    def pids(self):
        pids = [self.process.pid]
        listed = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return pids + [int(pid) for pid in listed.split()]

    def cpu(self):
        """User and system seconds so far, of all its processes."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def anonymous(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+)", text).group(1)) * 1024

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


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


def proxy_cache(work, name, port, origin, cache):
    """nginx as a cache of slices in front of `origin`."""
    zone = f"proxy_cache_path {cache} levels=1:2 keys_zone={name}:10m max_size=20g inactive=1h use_temp_path=off;"
    through = (
        f"location / {{ slice 8m; proxy_cache {name}; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
        f" proxy_http_version 1.1; proxy_cache_valid 200 206 1h; proxy_pass {origin}; }}"
    )
    return nginx(work, name, port, through, zone)
