"""Loads a model's parts with the libraries that users call: transformers, tokenizers, safetensors. No torch.

    python libraries.py REPO TEXT

Prints one JSON object.
"""

import json
import sys

from huggingface_hub import get_safetensors_metadata, hf_hub_download
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer

repo, text = sys.argv[1:]
config = AutoConfig.from_pretrained(repo)
tokenizer = AutoTokenizer.from_pretrained(repo)
metadata = get_safetensors_metadata(repo)
with safe_open(hf_hub_download(repo, "model.safetensors"), framework="numpy") as file:
    names = sorted(file.keys())
    shape = list(file.get_tensor(names[0]).shape)
try:
    AutoConfig.from_pretrained(f"{repo}-none")
    absent = None
except OSError as error:
    absent = type(error).__name__
print(
    json.dumps(
        {
            "type": config.model_type,
            "ids": tokenizer(text)["input_ids"],
            "rust_ids": Tokenizer.from_pretrained(repo).encode(text).ids,
            "tensors": len(names),
            "listed": sum(len(part.tensors) for part in metadata.files_metadata.values()),
            "shape": shape,
            "absent": absent,
        }
    )
)
