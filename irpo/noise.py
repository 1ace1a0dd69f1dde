"""What libraries print of themselves that a user of this one can do nothing about."""

from __future__ import annotations

import logging

# The library's logger -> how such a line begins.
_LINES = {
    # On a CPU with AVX512-BF16: its own 4-bit kernel serves, the one of the hub is not looked for.
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
    # Checkpoints written within one second of each other are ordered by number, as they should be.
    "transformers.trainer_utils": "mtime may not be reliable",
}


def hush() -> None:
    """Drop those lines, and no other; again and again changes nothing."""
    for name in _LINES:
        logging.getLogger(name).addFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_LINES[record.name])
