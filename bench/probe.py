"""Times single requests on one kept connection: seconds from the request to the first byte of its answer's body."""

import http.client
import statistics
import threading
import time


class Probe:
    def __init__(self, port, path):
        self.connection, self.path, self.samples = http.client.HTTPConnection("127.0.0.1", port, timeout=120), path, []

    def once(self, span=None):
        """Asks for the path, or `span` (first, last) of it, and reads it to its end."""
        headers = {"Range": f"bytes={span[0]}-{span[1]}"} if span else {}
        began = time.monotonic()
        self.connection.request("GET", self.path, headers=headers)
        answer = self.connection.getresponse()
        answer.read(1)
        self.samples.append(time.monotonic() - began)
        answer.read()
        if answer.status not in (200, 206):
            raise RuntimeError(f"{self.path}: {answer.status}")
        return self.samples[-1]

    def during(self, work):
        """Asks again and again while `work` runs; returns what that returned."""
        done = threading.Event()

        def ask():
            while not done.is_set():
                self.once()
                time.sleep(0.005)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            return work()
        finally:
            done.set()
            asking.join()

    def p50(self):
        return statistics.median(self.samples)

    def p99(self):
        return sorted(self.samples)[int(len(self.samples) * 0.99)]
