"""Listwise rerankers from instruction-tuned language models: one list, one forward pass, any objective.

>>> import irpo
>>> irpo.__version__
'0.1.0'
"""

from __future__ import annotations

import os
import sys

# `python -m irpo` puts this folder first; a file here would stand in for an installed package from the next line on.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("irpo", "-mirpo") and sys.path[0] == os.getcwd():
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

from irpo.progress import hush

if TYPE_CHECKING:
    from irpo.api import check, evaluate, prepare, train
    from irpo.objectives import loss
    from irpo.ranking.documents import Document
    from irpo.ranking.reranker import Reranker
    from irpo.scorers import score
    from irpo.types import UserError

__version__ = "0.1.0"
__all__ = ["Document", "Reranker", "UserError", "__version__", "check", "evaluate", "loss", "prepare", "score", "train"]

# Public name -> the module that holds it, imported at first use: `import irpo` must not wait for torch.
_LAZY = {
    "Document": "irpo.ranking.documents",
    "Reranker": "irpo.ranking.reranker",
    "UserError": "irpo.types",
    **dict.fromkeys(("check", "evaluate", "prepare", "train"), "irpo.api"),
    "loss": "irpo.objectives",
    "score": "irpo.scorers",
}


hush()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'irpo' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
