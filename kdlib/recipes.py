"""What a training is told (`Recipe`), and the weights and recipes that were published, by pair of networks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The settings of one run, unchecked: `kdlib.runs.Run` adds checks, what `None` stands for, and the key."""

    data: str = "digits_s"
    data_options: str = ""  # options of the data set, as "label=race, size=32"
    student: str = "convnet_8"  # the network that is trained
    teacher: str = "convnet_32"  # trained first, as a run of its own; method scratch ignores it
    method: str = "ckd"
    method_options: str = ""  # options of the method, as "distance=10, angle=20"; the rest as published
    debias: str = "none"
    lam: float = 0.0  # strength of the debiaser
    teacher_debias: str = "none"
    teacher_lam: float = 0.0
    seed: int = 0  # of initial weights, order and augmentation
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1  # the highest of the schedule
    precision: str = "auto"  # see `runs.machine.choose_precision`
    device: str = "auto"  # CUDA where there is one
    threads: int = 1  # of a CPU; another number changes the last bits, and a sweep fills the cores with runs instead
    schedule: str = "one_cycle"
    optimizer: str = "sgd"
    momentum: float = 0.9  # Adam's β₁
    weight_decay: float = 5e-4
    nesterov: bool = False  # of the student; teachers train without
    test_every: int = 1  # epochs between the evaluations behind `test_accuracy_best_epoch`, which nothing else reads
    skew: float | None = None  # of a planted attribute; None: the data set's default
    ramp: int | None = None  # epochs of KD++'s and DKD's warm-up and of CTKD's curriculum; None: as published
    temperature: float | None = None  # None: the method's default
    teacher_seed: int | None = None  # None here and below: the student's
    teacher_epochs: int | None = None
    teacher_lr: float | None = None
    teacher_batch_size: int | None = None
    teacher_schedule: str | None = None
    # "imagenet": start from published weights; "published": the fetched checkpoint, and a file: yours, without training
    weights: str = "none"
    teacher_weights: str = "none"


# The pairs (teacher, student) of the published tables, and the earlier study's pairs in their CIFAR form
CIFAR_PAIRS = (
    ("resnet56", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("vgg13", "vgg8"),
    ("ResNet50", "MobileNetV2"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("ResNet34", "ResNet18"),
    ("ResNet50", "ResNet18"),
)

# Weights that were published for a pair. KD++ and DKD++: Wang et al. 2023; DKD: the configurations of its authors' code
WEIGHTS = {
    "kdpp": {
        ("resnet56", "resnet20"): {"ce": 1.0, "kd": 1.0, "nd": 2.0},
        ("resnet32x4", "resnet8x4"): {"ce": 1.0, "kd": 3.5, "nd": 2.0},
        ("wrn_40_2", "wrn_40_1"): {"ce": 1.0, "kd": 1.0, "nd": 1.5},
        ("ResNet50", "MobileNetV2"): {"ce": 1.0, "kd": 3.0, "nd": 0.5},
        ("resnet32x4", "ShuffleV1"): {"ce": 1.0, "kd": 2.5, "nd": 1.5},
        ("resnet32x4", "ShuffleV2"): {"ce": 1.0, "kd": 4.0, "nd": 0.5},
    },
    "dkd": {
        ("resnet56", "resnet20"): {"beta": 2.0},
        ("resnet110", "resnet32"): {"beta": 2.0},
        ("wrn_40_2", "wrn_16_2"): {"beta": 6.0},
        ("wrn_40_2", "wrn_40_1"): {"beta": 6.0},
        ("vgg13", "vgg8"): {"beta": 6.0},
    },
    "dkdpp": {
        ("resnet56", "resnet20"): {"alpha": 2.5, "beta": 4.0, "nd": 3.5},
        ("resnet32x4", "resnet8x4"): {"alpha": 2.0, "beta": 8.0, "nd": 0.5},
        ("wrn_40_2", "wrn_40_1"): {"alpha": 1.0, "beta": 6.0, "nd": 1.0},
        ("ResNet50", "MobileNetV2"): {"alpha": 0.5, "beta": 8.0, "nd": 1.0},
        ("resnet32x4", "ShuffleV1"): {"alpha": 0.5, "beta": 8.0, "nd": 4.0},
        ("resnet32x4", "ShuffleV2"): {"alpha": 0.5, "beta": 6.0, "nd": 0.5},
    },
}


def pair_weights(method, teacher, student) -> dict:
    """Return the weights published for this pair, {option of the method: value}; empty where there are none."""
    return dict(WEIGHTS.get(method, {}).get((teacher, student), {}))


def is_small(network) -> bool:
    """Return whether the published protocol trains this network with a lower learning rate."""
    return network.startswith(("MobileNet", "Shuffle"))


def published_recipe(method, teacher, student) -> dict:
    """Return the settings with which a method's paper or code trains a pair on CIFAR-100.

    The protocol is that of the CRD benchmark (Tian et al. 2020), RKD's author, or KD++; the pair's own weights are not in it
    (see `pair_weights`).

    Returns
    -------
    dict
        Fields of `Recipe`: epochs, batch_size, lr, schedule, nesterov.
    """
    small = is_small(student)
    recipe = {"epochs": 240, "batch_size": 64, "lr": 0.01 if small else 0.05, "schedule": "step", "nesterov": False}
    if method == "rkd_author":
        return recipe | {"epochs": 200, "batch_size": 128, "lr": 0.1, "schedule": "step_rkd"}
    if method in ("kdpp", "dkdpp"):
        return recipe | {"batch_size": 128, "lr": 0.02 if small else 0.1, "nesterov": True}
    return recipe
