"""Reads a repo as a file system (HfFileSystem), as pandas, duckdb and `datasets` do.

    python filesystem.py ROOT REVISION LARGE

ROOT is `owner/name` or `datasets/owner/name`, LARGE the path of a file to read piecemeal. Prints one JSON object.
"""

import hashlib
import json
import sys

from huggingface_hub import HfFileSystem

root, revision, large = sys.argv[1:]
at = f"{root}@{revision}"
fs = HfFileSystem()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def below(paths) -> list[str]:
    return sorted(path.split("/", root.count("/") + 1)[-1] for path in paths)


size = fs.info(f"{at}/{large}")["size"]
parts = {}
with fs.open(f"{at}/{large}", "rb", block_size=1 << 16) as file:
    for offset in (0, 1, size // 2, size - 100, size - 1):
        file.seek(offset)
        parts[str(offset)] = sha256(file.read(100))
    file.seek(0, 2)
    end = file.read(10)
# A stream: one GET, continued where it broke off.
with fs.open(f"{at}/{large}", "rb", block_size=0) as file:
    streamed = sha256(file.read())
try:
    fs.info(f"{at}/none.bin")
    absent = None
except FileNotFoundError as error:
    absent = type(error).__name__
print(
    json.dumps(
        {
            "ls": below(fs.ls(at, detail=False)),
            "find": below(fs.find(at)),
            "glob": below(fs.glob(f"{at}/**/*.json")),
            "size": size,
            "parts": parts,
            "end": len(end),
            "streamed": streamed,
            "whole": sha256(fs.cat_file(f"{at}/{large}")),
            "range": sha256(fs.cat_file(f"{at}/{large}", start=10, end=1000)),
            "exists": [fs.exists(at), fs.exists(f"{root}-none"), fs.isdir(f"{at}/data"), fs.isfile(f"{at}/{large}")],
            "absent": absent,
        }
    )
)
