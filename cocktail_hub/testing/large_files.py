"""Large files: which go to LFS or Xet rather than into git, by the Hub's own rules."""

from __future__ import annotations

import fnmatch

# fmt: off
_PATTERNS = (
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gguf", "*.gz", "*.h5", "*.joblib", "*.lfs.*",
    "*.mlmodel", "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl",
    "*.pt", "*.pth", "*.rar", "*.safetensors", "*.tar", "*.tar.*", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip",
    "*.zst", "*tfevents*",
)
# fmt: on

GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _PATTERNS).encode()
"""The .gitattributes with which every repo begins."""


def is_large(path: str, *, size: int, sample: bytes, threshold: int, attributes: str) -> bool:
    """Whether a file goes to LFS: by size in bytes, because `sample`, its start, is binary, or by .gitattributes."""
    name, lines = path.rsplit("/", 1)[-1], map(str.split, attributes.splitlines())
    patterns = [line[0] for line in lines if "filter=lfs" in line]
    return size > threshold or b"\0" in sample or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_ignored(path: str, gitignore: str) -> bool:
    """Whether a .gitignore, read simply (no "!", no "**"), leaves a file out."""
    name = path.rsplit("/", 1)[-1]
    patterns = (line.strip() for line in gitignore.splitlines())
    return any(
        fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
        if pattern and not pattern.startswith("#")
    )
