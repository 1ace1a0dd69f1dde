"""Modes that rank a long list by asking about parts of it: windows, a tournament, a sort by sets.

Each is a plan (`asking.Plan`): which candidates to ask about next, given what was answered so far. It knows places and
nothing of model, prompt or text; `asking.in_parts` carries the plans of many lists out together, one call of the inner
mode a step. A module of this package registers itself.
"""

import importlib
import pkgutil

for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
