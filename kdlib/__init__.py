"""Fair distillation: how well distillation compresses a classifier, what it does to bias, and what repairs that.

The modules load on first use, so `import kdlib` is instant and reading a results table never loads torch.
"""

import importlib

__version__ = "0.1.0"

# In the order in which data flows; a module imports only from modules before it.
MODULES = (
    "paths", "machine", "archives", "s3", "storage", "data", "augment", "models", "losses", "methods", "groups",
    "adversaries", "matching", "balancing", "priors", "debias", "train", "teachers", "evaluate", "bias_tables",
    "bias_metrics", "bias_uncertainty", "bias_scores", "bias_compare", "bias_skew", "bias", "resolution", "profiles",
    "settings", "runs", "sweep", "results", "findings", "words", "ranking", "literature", "plots", "bias_plots", "report",
    "publish",
)  # fmt: skip


def __getattr__(name):
    if name in MODULES:
        return importlib.import_module(f"kdlib.{name}")
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}; its modules are {', '.join(MODULES)}")


def __dir__():
    return sorted([*globals(), *MODULES])
