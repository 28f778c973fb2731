"""Fair distillation: how well distillation compresses a classifier, what it does to bias, and what repairs that.

The modules load on first use, so `import kdlib` is instant and reading a results table never loads torch.
"""

import importlib

__version__ = "0.1.0"

# In the order in which data flows; a module imports only from modules before it.
MODULES = (
    "paths", "files", "names", "losses", "bias", "recipes", "storage", "data", "methods", "models", "debias", "evaluate",
    "teachers", "train", "profiles", "runs", "engines", "sweep", "export", "report",
)  # fmt: skip


def __getattr__(name):
    if name in MODULES:
        return importlib.import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}; its modules are {', '.join(MODULES)}")


def __dir__():
    return sorted([*globals(), *MODULES])
