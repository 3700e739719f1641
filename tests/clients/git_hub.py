#!/usr/bin/env python3
"""Serves git repositories as the Hub does, by git's own http-backend.

    git_hub.py FOLDER

FOLDER/owner/name.git is the repository owner/name, asked for with or without `.git`. Prints its URL once it listens on a free port
of 127.0.0.1, then a line per request: the method, the target, and whether a token came along.
"""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(sys.argv[1]).resolve()


class Git(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def answer(self):
        print(self.command, self.path, "token" if self.headers["Authorization"] else "-", flush=True)
        target = urlsplit(self.path)
        owner, name, *rest = target.path.strip("/").split("/")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(ROOT),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": "/".join(["", owner, name.removesuffix(".git") + ".git", *rest]),
            "QUERY_STRING": target.query,
            "REQUEST_METHOD": self.command,
            "REMOTE_USER": "somebody",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        asked = self.body()
        environment["CONTENT_LENGTH"] = str(len(asked))
        ran = subprocess.run(["git", "http-backend"], input=asked, env=environment, capture_output=True)
        head, _, body = ran.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        self.send_response(status)
        for name, value in headers:
            if name != "Status":
                self.send_header(name, value)
        if self.command == "POST":
            # As a server does that sends a pack while it is made.
            self.send_header("Transfer-Encoding", "chunked")
            pieces = [body[at : at + 60_000] for at in range(0, len(body), 60_000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while length := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(length))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Git)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
