"""Downloads one file, or says which exception a user would have to catch.

    python single.py TYPE REPO REVISION PATH CACHE

Prints one JSON object: {"sha256", "size", "blob"}, or {"error": class name, "is": names of all its classes, "message"}.
A token, if any, comes from HF_TOKEN.
"""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import hf_hub_download

kind, repo, revision, name, cache = sys.argv[1:]
try:
    path = Path(hf_hub_download(repo, name, repo_type=kind, revision=revision, cache_dir=cache))
except Exception as error:
    classes = [one.__name__ for one in type(error).__mro__]
    print(json.dumps({"error": type(error).__name__, "is": classes, "message": str(error)}))
else:
    data = path.read_bytes()
    print(
        json.dumps({"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "blob": path.resolve().name})
    )
