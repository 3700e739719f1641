"""Downloads a repo and says what arrived.

    python snapshot.py TYPE REPO REVISION CACHE [PATTERN]...

TYPE is model, dataset or space; CACHE is a directory for this client's files. Where from: HF_ENDPOINT, as for any user.
Prints one JSON object: path -> {"sha256", "size", "blob"}, where `blob` is the name of the file in the client's cache, that
is the ETag it was given. An exception ends the program with the traceback, as it would a user's.
"""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

kind, repo, revision, cache, *patterns = sys.argv[1:]
folder = Path(
    snapshot_download(repo, repo_type=kind, revision=revision, cache_dir=cache, allow_patterns=patterns or None)
)

found = {}
for path in sorted(folder.rglob("*")):
    if path.is_file():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = {
            "sha256": sha256,
            "size": path.stat().st_size,
            "blob": path.resolve().name,
        }
print(json.dumps({"commit": folder.name, "files": found}))
