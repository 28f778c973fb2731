"""The study's settings. A profile is a grid of runs; `quick` is the one that `make all` runs.

A profile's methods return lists of settings (dicts of `Run`'s fields), one per run, for each part of the story."""

import dataclasses
from dataclasses import dataclass

from kdlib import debias, methods, paths
from kdlib.paths import near


@dataclass(frozen=True)
class Profile:
    """`settings` are common to every run. `pairs` are (teacher, student); every list of runs is of the first, and `of` makes
    another the first. `debias` maps each debiaser of the students to its list of λ (0 where it has no strength);
    `teacher_debias` is the debiaser of the 2 × 2 of teacher and student. Where the settings have a `teacher_seed`, one
    teacher serves all seeds."""

    name: str
    about: str
    settings: dict
    pairs: tuple
    methods: tuple
    seeds: tuple
    debias: dict = dataclasses.field(default_factory=dict)
    teacher_debias: str = "none"
    published: tuple = ()  # methods that are also trained as published
    ablated: bool = False  # whether KD++ is taken apart
    small_lr: float | None = None  # the learning rate of MobileNet and ShuffleNet students, if they have their own
    temperatures: tuple = ()  # at which methods that soften logits are trained too

    def __post_init__(self):
        if debias.has_strength(self.teacher_debias):
            raise ValueError(
                f"teacher_debias is used without λ, which {self.teacher_debias} needs: choose one that has none"
            )

    def of(self, pair):
        """This profile for one of its pairs, as "resnet56->resnet20"; "" is the first. ValueError where it has no such."""
        known = {f"{teacher}->{student}": (teacher, student) for teacher, student in self.pairs}
        if pair and pair not in known:
            raise near(pair, known, f"pair of profile {self.name}:")
        return dataclasses.replace(self, pairs=(known[pair] if pair else self.pairs[0],))

    def changed(self, seeds=None, **settings):
        """This profile with other seeds and with `settings` of every run, teachers' too unless `teacher_…` says otherwise.

        Methods as published are left out then, as they would no longer be."""
        if not seeds and not settings:
            return self
        own = {f"teacher_{name}": value for name, value in settings.items() if f"teacher_{name}" in self.settings}
        return dataclasses.replace(
            self,
            settings=self.settings | own | settings,
            seeds=tuple(seeds or self.seeds),
            published=() if settings else self.published,
            small_lr=None if "lr" in settings else self.small_lr,
        )

    def _each_pair(self):
        return [dataclasses.replace(self, pairs=(pair,)) for pair in self.pairs]

    def _runs(self, **settings):
        teacher, student = self.pairs[0]
        pair = {"teacher": teacher, "student": student}
        return [self.settings | pair | settings | {"seed": seed} for seed in self.seeds]

    def teachers(self, debias="none"):
        """The teacher, trained with a debiaser or without: a run per seed, or one for all seeds."""
        prefix, teacher = "teacher_", self.pairs[0][0]
        recipe = {name.removeprefix(prefix): value for name, value in self.settings.items() if name.startswith(prefix)}
        trained = self._runs(student=teacher, method="scratch", debias=debias, **recipe)
        if "seed" not in recipe:
            return trained
        return [trained[0] | {"seed": recipe["seed"]}]

    def teacher_kinds(self):
        """{name: runs}: the teacher, and the debiased one where there is one."""
        debiased = () if self.teacher_debias == "none" else (self.teacher_debias,)
        named = {f"teacher, {debias.replace('_', '-')}": self.teachers(debias) for debias in debiased}
        return {"teacher": self.teachers()} | named

    def teacher_of(self, position, debias="none"):
        """The teacher of the students of the seed at this position: its own, or the one that all share."""
        return self.teachers(debias)[0 if "teacher_seed" in self.settings else position]

    def students(self, method, debias="none", lam=0.0, teacher_debias="none", **recipe):
        """The student under a method; method scratch is the student alone, the control with the same budget. `recipe`:
        settings in place of the profile's, and of the pair's published weights."""
        recipe = {"lr": self._student_lr()} | method_weights(method, *self.pairs[0]) | recipe
        return self._runs(method=method, debias=debias, lam=lam, teacher_debias=teacher_debias, **recipe)

    def _student_lr(self):
        return self.small_lr if self.small_lr and is_small(self.pairs[0][1]) else self.settings["lr"]

    def as_published(self, method):
        """The student under the method's own published recipe, where the profile's is another."""
        return self.students(method, **published_recipe(method, *self.pairs[0]))

    def debiased(self, method):
        """The method's student under each debiaser, over its λ; those that need a teacher are not for the student alone."""
        return [
            run
            for name, strengths in self.debias.items()
            if method != "scratch" or not debias.needs_teacher(name)
            for lam in strengths
            for run in self.students(method, name, lam)
        ]

    def two_by_two(self, method):
        """Teacher debiased or not × student debiased or not."""
        choices = dict.fromkeys(("none", self.teacher_debias))
        return [
            run for teacher in choices for student in choices for run in self.students(method, student, 0.0, teacher)
        ]

    def tempered(self, method):
        """{temperature: runs} of the method's student; empty for a method without one, and where the profile has none."""
        options = methods.method_options(method)
        if "temperature" not in options or not options.get("kd", 1.0):
            return {}
        own = options["temperature"]
        return {each: self.students(method, temperature=None if each == own else each) for each in self.temperatures}

    def ablation(self):
        """{name: runs}: from CKD to KD++ as published, so that what its norm-and-direction term brings can be told from what
        its weights and its optimiser bring. Empty unless the profile is `ablated`."""
        if not self.ablated:
            return {}
        weights = method_weights("kdpp", *self.pairs[0])
        batch = self.settings["batch_size"]
        parts = {
            "nesterov": {"nesterov": True},
            "twice the learning rate": {"lr": 2 * self._student_lr()},
            "twice the batch": {"batch_size": 2 * batch, "teacher_batch_size": batch},
        }
        every = {name: value for part in parts.values() for name, value in part.items()}
        return {
            "CKD": self.students("ckd"),
            "KD++ without its term": self.students("kdpp", **weights | {"nd": 0.0}),
            "KD++": self.students("kdpp", **weights),
            **{f"KD++, {name}": self.students("kdpp", **weights, **part) for name, part in parts.items()},
            "KD++, all three": self.students("kdpp", **weights, **every),
            "KD++ without its term, all three": self.students("kdpp", **weights | {"nd": 0.0}, **every),
        }

    def grid(self):
        """Every run of the study, of every pair, each kind of model under one recipe."""
        if len(self.pairs) > 1:
            return [run for one in self._each_pair() for run in one.grid()]
        controls = ("scratch", *self.methods)
        crossed = self.methods if self.teacher_debias != "none" else ()
        return [
            *self.teachers(),
            *self.teachers(self.teacher_debias),
            *(run for method in controls for run in self.students(method)),
            *(run for method in controls for run in self.debiased(method)),
            *(run for method in crossed for run in self.two_by_two(method)),
        ]

    def extras(self):
        """The runs beside the grid: methods under their published recipes, the parts of KD++, and other temperatures."""
        if len(self.pairs) > 1:
            return [run for one in self._each_pair() for run in one.extras()]
        return [
            *(run for method in self.published for run in self.as_published(method)),
            *(run for part in self.ablation().values() for run in part),
            *(run for method in self.methods for part in self.tempered(method).values() for run in part),
        ]


def is_small(network) -> bool:
    """Whether the published protocol trains this network with a lower learning rate."""
    return network.startswith(("MobileNet", "Shuffle"))


def published_recipe(method, teacher, student) -> dict:
    """The settings with which a method's paper or code trains this pair on CIFAR-100 (its weights, where the pair has its
    own): the protocol of the CRD benchmark, RKD's author's, or KD++'s."""
    small = is_small(student)
    recipe = dict(epochs=240, batch_size=64, lr=0.01 if small else 0.05, schedule="step", nesterov=False)
    if method == "rkd_author":
        return recipe | dict(epochs=200, batch_size=128, lr=0.1, schedule="step_rkd")
    if method in ("kdpp", "dkdpp"):
        recipe |= dict(batch_size=128, lr=0.02 if small else 0.1, nesterov=True)
    return recipe | method_weights(method, teacher, student)


def method_weights(method, teacher, student) -> dict:
    """The published weights of a method's terms for this pair; empty, so the method's own, where the pair has none."""
    names, of_pairs = WEIGHTS.get(method, ((), {}))
    return dict(zip(names, of_pairs.get((teacher, student), ()), strict=False))


# Of each method that is weighted by the pair: the names of its weights, and their values where they were published (KD++ and
# DKD++ by Wang et al. 2023; DKD by the configurations of mdistiller, its authors' code)
WEIGHTS = {
    "kdpp": (
        ("ce", "kd", "nd"),
        {
            ("resnet56", "resnet20"): (1.0, 1.0, 2.0),
            ("resnet32x4", "resnet8x4"): (1.0, 3.5, 2.0),
            ("wrn_40_2", "wrn_40_1"): (1.0, 1.0, 1.5),
            ("ResNet50", "MobileNetV2"): (1.0, 3.0, 0.5),
            ("resnet32x4", "ShuffleV1"): (1.0, 2.5, 1.5),
            ("resnet32x4", "ShuffleV2"): (1.0, 4.0, 0.5),
        },
    ),
    "dkd": (
        ("beta",),
        {
            ("resnet56", "resnet20"): (2.0,),
            ("resnet110", "resnet32"): (2.0,),
            ("wrn_40_2", "wrn_16_2"): (6.0,),
            ("wrn_40_2", "wrn_40_1"): (6.0,),
            ("vgg13", "vgg8"): (6.0,),
        },
    ),
    "dkdpp": (
        ("alpha", "beta", "nd"),
        {
            ("resnet56", "resnet20"): (2.5, 4.0, 3.5),
            ("resnet32x4", "resnet8x4"): (2.0, 8.0, 0.5),
            ("wrn_40_2", "wrn_40_1"): (1.0, 6.0, 1.0),
            ("ResNet50", "MobileNetV2"): (0.5, 8.0, 1.0),
            ("resnet32x4", "ShuffleV1"): (0.5, 8.0, 4.0),
            ("resnet32x4", "ShuffleV2"): (0.5, 6.0, 0.5),
        },
    ),
}

# The pairs of the published tables, and the earlier study's in the CIFAR form
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

QUICK = dict(
    data="digits_s",
    epochs=15,
    lr=0.2,  # learning rates were chosen on validation accuracy
    batch_size=64,
    teacher_epochs=15,
    teacher_lr=0.2,
    test_every=5,
    ramp=3,  # KD++ warms up over 20 of 240 epochs as published, CTKD over 10
    device="cpu",  # seconds a run: a GPU would wait for kernels to start
)

# common to both sizes; the learning rate is that of .1, .2, .4 with which the student alone did best on validation at 32 pixels
FACES = dict(data="utkface", lr=0.2, teacher_lr=0.2, batch_size=64, precision="bfloat16", device="cpu")

# for data that take longer: debiasers of several families, at strengths taken from what digits showed (on test, of other data)
SOME_DEBIASERS = {
    "critic": (10.0,),
    "adversary_conditional": (2.0,),
    "gap_penalty": (1.0,),
    "balanced_teacher": (0.5, 1.0),
    "domain_independent": (0.0,),
    "resample": (0.0,),
    "dfr": (0.0,),
}


PROFILES = {
    "quick": Profile(
        name="quick",
        about="scikit-learn's digits with a planted colour, small networks: minutes on two cores",
        settings=QUICK,
        pairs=(("convnet_32", "convnet_8"),),  # a fifteenth of the parameters
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={"critic": (1.0, 10.0, 50.0), "domain_independent": (0.0,)},
        teacher_debias="domain_independent",
        seeds=(0, 1, 2),
        ablated=True,
    ),
    "digits_debiasing": Profile(
        name="digits_debiasing",
        about="every debiaser on quick's data, another third as test, with other seeds: ten minutes on two cores",
        # quick's own test split was looked at while the debiasers were written, so it is no test of them: another third is
        settings=QUICK | dict(data_options="fold=1"),
        pairs=(("convnet_32", "convnet_8"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={
            "critic": (1.0, 10.0, 50.0),
            "critic_faithful": (1.0, 10.0, 50.0),
            "adversary": (0.5, 2.0, 8.0),
            "adversary_embedding": (0.5, 2.0, 8.0),
            "adversary_conditional": (0.5, 2.0, 8.0),
            "adversary_embedding_conditional": (0.5, 2.0, 8.0),
            "projection": (0.3, 1.0, 3.0),
            "gap_penalty": (0.1, 0.3, 1.0),
            "mfd": (1.0, 3.0, 7.0),
            "group_dro": (0.01, 0.03, 0.1),
            "logit_adjustment": (0.5, 1.0, 1.5),
            "balanced_teacher": (0.5, 1.0, 1.5),
            "domain_independent": (0.0,),
            "reweight": (0.0,),
            "resample": (0.0,),
            "bias_mimicking": (0.0,),
            "dfr": (0.0,),
        },
        teacher_debias="domain_independent",
        temperatures=(1.0, 2.0, 4.0, 8.0, 20.0),
        seeds=(3, 4, 5, 6, 7),
    ),
    "digits_confirmation": Profile(
        name="digits_confirmation",
        about="four debiasers on the third of the digits that nothing was tested on, with new seeds: ten minutes on two cores",
        # the rule that chooses λ was mended after a look at other tests (LOG): here it was fixed before anything was run
        settings=QUICK | dict(data_options="fold=2"),
        pairs=(("convnet_32", "convnet_8"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={
            "adversary_conditional": (0.5, 2.0, 8.0),
            "balanced_teacher": (0.5, 1.0, 1.5),
            "domain_independent": (0.0,),
            "resample": (0.0,),
        },
        seeds=(8, 9, 10, 11, 12),
    ),
    "cifar100": Profile(
        name="cifar100",
        about="CIFAR-100 under the published protocol, 240 epochs, all but 100 training pictures: for a GPU",
        settings=dict(
            data="cifar100",
            data_options="val_share=0.002",  # the protocol trains on all 50,000; nothing is chosen on one picture a class
            epochs=240,
            lr=0.05,
            batch_size=64,
            schedule="step",
            teacher_epochs=240,
            teacher_lr=0.05,
            teacher_batch_size=64,
            teacher_schedule="step",
            teacher_seed=0,
        ),
        small_lr=0.01,
        pairs=CIFAR_PAIRS,
        methods=("ckd", "rkd", "rkd_author", "ctkd", "ctkd_instance", "kdpp", "dkd", "dkdpp"),
        seeds=(0, 1, 2, 3, 4),
        published=("rkd_author", "kdpp", "dkd", "dkdpp"),
        ablated=True,
    ),
    "cifar100_short": Profile(
        name="cifar100_short",
        about="CIFAR-100 in a short form, one-cycle, a small pair: hours on two cores",
        settings=dict(
            data="cifar100",
            epochs=15,
            lr=0.1,
            batch_size=64,
            teacher_epochs=20,
            teacher_seed=0,
            test_every=5,
            ramp=2,  # KD++ warms up over 20 of 240 epochs as published, CTKD over 10
            precision="bfloat16",  # two thirds of float32's time where the CPU has it
            device="cpu",
        ),
        pairs=(("resnet20", "resnet8"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        seeds=(0, 1, 2),
    ),
    "cifar100s_debiasing": Profile(
        name="cifar100s_debiasing",
        about="CIFAR-100's 20 coarse classes, half of them in grey, small networks, four debiasers: over an hour on two cores",
        settings=dict(
            data="cifar100s",
            data_options="labels=coarse",
            # leaves 225 pictures in a class's rare domain, as CIFAR-10S 250; of the usual .95 a plain student of this size
            # names so few of them that its accuracy is hardly above that of telling the domains apart
            skew=0.9,
            epochs=12,
            lr=0.1,  # of .05, .1, .2 on validation with fine labels, scaled to this batch size
            batch_size=64,  # RKD's angles cost by the cube of it
            teacher_epochs=12,
            teacher_lr=0.1,
            test_every=4,
            ramp=1,  # KD++ warms up over 20 of 240 epochs as published, CTKD over 10
            precision="float32",  # bfloat16 does not pay for networks of this size
            device="cpu",
        ),
        pairs=(("convnet_64", "convnet_16"),),  # a thirteenth of the parameters
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={
            "adversary_conditional": (2.0,),
            "balanced_teacher": (0.5, 1.0, 1.5),
            "domain_independent": (0.0,),
            "resample": (0.0,),
        },
        seeds=(0, 1, 2),
    ),
    # Wang et al. (CVPR 2020), a replication's 16 runs: the teacher 88.54 ± .26 % with `bias_skew.skew_amplification` .0739 ±
    # .0019, with domain-independent heads 92.31 ± .15 % and .0051 ± .0007; here a tenth of training is kept for validation
    "cifar10s": Profile(
        name="cifar10s",
        about="CIFAR-10S under the published protocol, ResNet-18 to students of a fifth of its size and less: for a GPU",
        settings=dict(
            data="cifar10s",
            epochs=200,
            lr=0.1,
            batch_size=128,
            schedule="step_quarters",
            teacher_epochs=200,
            teacher_lr=0.1,
            teacher_batch_size=128,
            teacher_schedule="step_quarters",
            test_every=10,
        ),
        pairs=(("ResNet18", "wrn_40_2"), ("ResNet18", "resnet8x4"), ("ResNet18", "resnet20")),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={
            "domain_independent": (0.0,),
            "resample": (0.0,),
            "adversary_conditional": (2.0,),
            "balanced_teacher": (1.0,),
        },
        teacher_debias="domain_independent",
        seeds=(0, 1, 2),
    ),
    "wider": Profile(
        name="wider",
        about="WIDER Attribute, the earlier study's protocol: EfficientNet-B3 to B0 from ImageNet weights, for a GPU",
        settings=dict(
            data="wider",
            epochs=15,
            lr=1e-4,  # a fifth of the teacher's, as the protocol has it
            batch_size=64,
            optimizer="adam",
            weight_decay=5e-4,
            weights="imagenet",
            teacher_epochs=15,
            teacher_lr=5e-4,
            teacher_weights="imagenet",
            ramp=2,  # KD++ warms up over 20 of 240 epochs as published, CTKD over 10
        ),
        pairs=(("efficientnet_b3", "efficientnet_b0"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={"critic": (1.0, 3.0, 10.0, 50.0), "domain_independent": (0.0,)},
        teacher_debias="domain_independent",
        seeds=(0, 1, 2, 3, 4),
    ),
    "faces": Profile(
        name="faces",
        about="UTKFace, 64 × 64 pixels: age bands, with gender as attribute; hours on two cores",
        settings=FACES | dict(epochs=10, teacher_epochs=12, test_every=10, ramp=2),
        pairs=(("resnet20", "resnet8"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={"critic": (1.0, 10.0), "domain_independent": (0.0,)},
        seeds=(0, 1, 2),
    ),
    "faces_short": Profile(
        name="faces_short",
        about="UTKFace, 32 × 32 pixels, one teacher: age bands, with gender as attribute; under half an hour on two cores",
        settings=FACES
        | dict(data_options="size=32", epochs=5, teacher_epochs=10, teacher_seed=0, test_every=5, ramp=1),
        pairs=(("resnet20", "resnet8"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias={"domain_independent": (0.0,)},
        seeds=(0, 1, 2),
    ),
    "faces_debiasing": Profile(
        name="faces_debiasing",
        about="UTKFace, 32 × 32 pixels, a small student, several debiasers: half an hour on two cores",
        settings=FACES
        | dict(
            data_options="size=32",
            epochs=10,
            lr=0.4,  # chosen as in FACES, for this student
            batch_size=128,
            teacher_epochs=10,
            teacher_batch_size=64,
            teacher_seed=0,
            test_every=10,
            ramp=1,
            precision="float32",  # bfloat16 does not pay for a student of this size
        ),
        # convnet_64, a like network, is only 1.7 points better than the student on validation: too little to teach
        pairs=(("resnet20", "convnet_16"),),
        methods=("ckd", "rkd", "ctkd", "kdpp"),
        debias=SOME_DEBIASERS,
        teacher_debias="domain_independent",
        seeds=(0, 1, 2),
    ),
}


def profile(name, pair="") -> Profile:
    """The profile `name`, for one of its pairs; "" is its first, "all" every one. Shrunk to two seeds, one epoch and one λ
    when KDLIB_SMOKE is set. ValueError if unknown."""
    if name not in PROFILES:
        raise near(name, PROFILES, "profile")
    chosen = PROFILES[name] if pair == "all" else PROFILES[name].of(pair)
    if not paths.smoke():
        return chosen
    small = chosen.settings | {"epochs": 1, "teacher_epochs": 1, "test_every": 1}
    debias = {debiaser: strengths[-1:] for debiaser, strengths in chosen.debias.items()}
    return dataclasses.replace(chosen, settings=small, debias=debias, seeds=chosen.seeds[:2])
