"""Bias of a classifier between two groups of images: its size, its noise floor, and its growth from teacher to student.

Any classifier's predictions will do:

>>> import numpy as np
>>> from kdlib import bias
>>> label = np.repeat([0, 1], 100)                # 200 images of two classes,
>>> group = np.tile([0, 1], 100)                  # half of each class in either group; −1 would mean unknown
>>> missed = (label == 1) & (group == 1) & (np.arange(200) % 5 == 0)
>>> prediction = np.where(missed, 0, label)       # 10 of class 1's 50 images in group 1 are missed
>>> bias.class_disparity(label, prediction, group).round(3)
array([ 0. , -0.2])
>>> round(bias.mean_absolute_disparity(label, prediction, group), 3)
0.1
>>> floor = bias.noise_floor(bias.mean_absolute_disparity, label, prediction, group)
>>> floor.mean < 0.04, floor.p_value < 0.01       # what a classifier that ignores the group would show
(True, True)
>>> interval = bias.bootstrap(bias.class_disparity, label, prediction, group)
>>> print(interval.low[1] < -0.2 < interval.high[1] < 0)
True

Files: `metrics` (disparities of recall) and `criteria` (other figures of one model), `scores` (those of probabilities) and
`attack` (leakage); `uncertainty` (floors and bootstrap), `intervals`, `paired` and `spread`; `compare` and `populations` (a
student beside its teacher); `summaries`, `reading`, `intersections`, `resolution`, `stats`. All public names are names of this
module too.
"""

from kdlib.bias.attack import leakage
from kdlib.bias.compare import compare, signed_root
from kdlib.bias.criteria import (
    bias_amplification,
    bias_amplification_mals,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_ratio,
    equalized_odds_difference,
    fractional_disparity,
)  # fmt: skip
from kdlib.bias.intersections import intersection
from kdlib.bias.intervals import (
    class_disparity_interval,
    flip_rate,
    mean_square_disparity_interval,
    wilson,
    worst_group_interval,
)  # fmt: skip
from kdlib.bias.metrics import (
    accuracy_gap,
    cell_counts,
    class_disparity,
    class_disparity_range,
    class_recall,
    earlier_study_disparity,
    group_confusion,
    macro_recall_gap,
    max_disparity,
    mean_absolute_disparity,
    mean_disparity,
    mean_square_disparity,
    root_mean_square_disparity,
    weighted_disparity,
    worst_cell_accuracy,
    worst_group_accuracy,
    worst_group_recall,
)  # fmt: skip
from kdlib.bias.paired import is_paired
from kdlib.bias.populations import class_tests, exemplars
from kdlib.bias.reading import Predictions, read_csv
from kdlib.bias.scores import (
    accuracy_coverage,
    auc_gap,
    calibration,
    calibration_gap,
    group_auc,
    group_brier,
    group_overconfidence,
)  # fmt: skip
from kdlib.bias.skew import skew_amplification
from kdlib.bias.spread import Spread, sources_of_spread
from kdlib.bias.stats import benjamini_hochberg, holm, paired_difference, student_interval, t_test
from kdlib.bias.summaries import METRICS, summary
from kdlib.bias.uncertainty import Interval, NoiseFloor, bootstrap, noise_floor

__all__ = [
    "METRICS", "Interval", "NoiseFloor", "Predictions", "Spread", "accuracy_coverage", "accuracy_gap", "auc_gap",
    "benjamini_hochberg", "bias_amplification", "bias_amplification_mals", "bootstrap", "calibration", "calibration_gap",
    "cell_counts", "class_disparity", "class_disparity_interval", "class_disparity_range", "class_recall", "class_tests",
    "compare", "demographic_parity_difference", "demographic_parity_ratio", "earlier_study_disparity",
    "equal_opportunity_ratio", "equalized_odds_difference", "exemplars", "flip_rate", "fractional_disparity", "group_auc",
    "group_brier", "group_confusion", "group_overconfidence", "holm", "intersection", "is_paired", "leakage",
    "macro_recall_gap", "max_disparity", "mean_absolute_disparity", "mean_disparity", "mean_square_disparity",
    "mean_square_disparity_interval", "noise_floor", "paired_difference", "read_csv", "root_mean_square_disparity",
    "signed_root", "skew_amplification", "sources_of_spread", "student_interval", "summary", "t_test", "weighted_disparity",
    "wilson", "worst_cell_accuracy", "worst_group_accuracy", "worst_group_interval", "worst_group_recall",
]  # fmt: skip
