"""Loads data sets with `datasets`, at once and streaming.

    python load_dataset.py make FOLDER       writes the files of a Parquet set (rows/) and of a JSON set (lines/)
    python load_dataset.py load ROWS LINES   loads the two repos and prints one JSON object: rows, columns and sums
"""

import json
import sys
from pathlib import Path

ROWS = 20_000


def make(folder: Path) -> None:
    import numpy
    import pyarrow
    import pyarrow.parquet

    noise = numpy.random.default_rng(1).random(ROWS)
    (folder / "rows/data").mkdir(parents=True)
    for part in range(2):
        ids = range(part * ROWS, (part + 1) * ROWS)
        table = pyarrow.table({"id": list(ids), "noise": noise, "text": [f"row {id}" for id in ids]})
        # Several row groups: streaming reads the file piece by piece.
        pyarrow.parquet.write_table(table, folder / f"rows/data/train-0000{part}-of-00002.parquet", row_group_size=5000)
    lines = [json.dumps({"id": id, "text": f"line {id}"}) for id in range(1000)]
    (folder / "lines").mkdir()
    (folder / "lines/test-lines.jsonl").write_text("\n".join(lines) + "\n")


def load(rows: str, lines: str) -> None:
    from datasets import get_dataset_config_names, load_dataset, load_dataset_builder

    whole = load_dataset(rows, split="train")
    streamed = load_dataset(rows, split="train", streaming=True)
    whole_lines = load_dataset(lines, split="test")
    # By the files' own address, and at a revision.
    by_file = load_dataset(lines, revision="main", data_files={"test": "*.jsonl"}, split="test", streaming=True)
    print(
        json.dumps(
            {
                "rows": len(whole),
                "sum": sum(whole["id"]),
                "columns": whole.column_names,
                "streamed": sum(row["id"] for row in streamed),
                "taken": [row["id"] for row in streamed.skip(ROWS).take(2)],
                "lines": [len(whole_lines), whole_lines[999]["text"]],
                "by_file": sum(1 for _ in by_file),
                "builder": load_dataset_builder(rows).info.builder_name,
                "configs": get_dataset_config_names(lines),
            }
        )
    )


if __name__ == "__main__":
    make(Path(sys.argv[2])) if sys.argv[1] == "make" else load(*sys.argv[2:])
