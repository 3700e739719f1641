"""Does what users do, with an empty home: downloads repos, then asks what libraries ask beside it.

    python offline.py CACHE JSON

JSON is {"repos": [[type, id, revision], ...], "probes": [[type, id], ...], "absent": [[type, id, path], ...],
"unknown": [[type, id], ...]}. Prints one JSON object:

- "repos": id -> {"commit", "files": path -> {"sha256", "size", "blob"}}, as snapshot.py has it;
- "probes": id -> {"root", "below", "whole", "paths", "info", "sizes", "exists"}: what list_repo_tree, get_paths_info, repo_info
  and file_exists tell;
- "absent" and "unknown": the exception for each, as {"error", "is", "message"}.
"""

import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

cache, asked = sys.argv[1], json.loads(sys.argv[2])
api = HfApi()


def failure(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return {"error": type(error).__name__, "is": [one.__name__ for one in type(error).__mro__], "message": str(error)}
    return {"error": None, "is": [], "message": "it succeeded"}


def arrived(folder):
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(folder).as_posix()
            files[name] = {"sha256": sha256, "size": path.stat().st_size, "blob": path.resolve().name}
    return {"commit": folder.name, "files": files}


def listed(kind, repo):
    def tree(**kwargs):
        return sorted(entry.path for entry in api.list_repo_tree(repo, repo_type=kind, **kwargs))

    root = tree()
    below = tree(path_in_repo="deep")
    paths = api.get_paths_info(repo, ["deep", "deep/w.bin", "nothing"], repo_type=kind)
    info = api.repo_info(repo, repo_type=kind)
    sizes = api.repo_info(repo, repo_type=kind, files_metadata=True)
    return {
        "root": root,
        "below": below,
        "whole": tree(recursive=True),
        "paths": {entry.path: getattr(entry, "size", None) for entry in paths},
        "info": {"sha": info.sha, "files": sorted(file.rfilename for file in info.siblings)},
        "sizes": {file.rfilename: file.size for file in sizes.siblings},
        "exists": api.file_exists(repo, "deep/w.bin", repo_type=kind),
    }


result = {"repos": {}, "probes": {}, "absent": {}, "unknown": {}}
for kind, repo, revision in asked.get("repos", []):
    folder = snapshot_download(repo, repo_type=kind, revision=revision, cache_dir=cache)
    result["repos"][repo] = arrived(Path(folder))
for kind, repo in asked.get("probes", []):
    result["probes"][repo] = listed(kind, repo)
for kind, repo, path in asked.get("absent", []):
    result["absent"][f"{repo}/{path}"] = failure(hf_hub_download, repo, path, repo_type=kind, cache_dir=cache)
for kind, repo in asked.get("unknown", []):
    result["unknown"][repo] = failure(snapshot_download, repo, repo_type=kind, cache_dir=cache)
print(json.dumps(result))
