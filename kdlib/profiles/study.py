"""What a study trains: `Profile`, a grid of runs in the parts that the notebooks tell.

Its methods return lists of settings (dicts of `Run`'s fields), one per run."""

import dataclasses
from dataclasses import dataclass, field

from kdlib import names, recipes
from kdlib.data import options

TEACHER = "teacher_"  # prefix of the settings of a run's teacher


@dataclass(frozen=True)
class Profile:
    """A study. Every list of runs is of the first pair; `of` makes another the first.

    Attributes
    ----------
    name, about : str
    settings : dict
        Fields of `Run`, common to every run. With a `teacher_seed`, one teacher serves all seeds.
    pairs : tuple of (teacher, student)
    methods, seeds : tuple
    debias : dict
        {debiaser of the students: tuple of λ}, (0.0,) for one without a strength.
    teacher_debias : str
        The debiaser of the 2 × 2 of teacher and student.
    published : tuple
        Methods that are also trained as published.
    ablated : bool
        Whether KD++ is taken apart.
    small_lr : float or None
        The learning rate of MobileNet and ShuffleNet students, if they have their own.
    temperatures : tuple
        Temperatures at which methods that soften logits are trained, too.
    controls : tuple of dict
        Combinations of a debiased teacher and a debiased student: teacher_debias, teacher_lam, debias, lam.
    """

    name: str
    about: str
    settings: dict
    pairs: tuple
    methods: tuple
    seeds: tuple
    debias: dict = field(default_factory=dict)
    teacher_debias: str = "none"
    published: tuple = ()
    ablated: bool = False
    small_lr: float | None = None
    temperatures: tuple = ()
    controls: tuple = ()

    def of(self, pair):
        """Return this profile for one of its pairs, as "resnet56->resnet20"; "" is the first."""
        known = {f"{teacher}->{student}": (teacher, student) for teacher, student in self.pairs}
        if pair and pair not in known:
            raise names.unknown_name(pair, known, f"pair of profile {self.name}:")
        return dataclasses.replace(self, pairs=(known[pair] if pair else self.pairs[0],))

    def position(self, seed) -> int:
        """Return the position of a seed among this profile's; −1 stands for the first. Raises ValueError for others."""
        if seed == -1:
            return 0
        if seed not in self.seeds:
            raise ValueError(f"profile {self.name} has the seeds {', '.join(map(str, self.seeds))}; got {seed}")
        return self.seeds.index(seed)

    def one_debiaser(self, name="") -> str:
        """Return one of this profile's debiasers: `name`, or where it is empty the first with a strength, the first, or "none".

        Raises ValueError for a name that is not among them."""
        from kdlib import debias

        if name and name not in self.debias:
            raise names.unknown_name(name, self.debias or ("none",), f"debiaser of profile {self.name}:")
        with_strength = [each for each in self.debias if debias.has_strength(each)]
        return name or next(iter([*with_strength, *self.debias]), "none")

    def one_method(self, name="") -> str:
        """Return one of this profile's methods: `name`, or where it is empty the first. Raises ValueError for any other."""
        known = (*self.methods, "scratch")
        if name and name not in known:
            raise names.unknown_name(name, known, f"method of profile {self.name}:")
        return name or known[0]

    def changed(self, seeds=None, **settings):
        """Return this profile with other seeds, and with `settings` for every run.

        Teachers change too, unless a `teacher_…` setting says otherwise. Methods as published are then left out, as they
        would no longer be."""
        if not seeds and not settings:
            return self
        of_teacher = {TEACHER + name: value for name, value in settings.items() if TEACHER + name in self.settings}
        return dataclasses.replace(
            self,
            settings=self.settings | of_teacher | settings,
            seeds=tuple(seeds or self.seeds),
            published=() if settings else self.published,
            small_lr=None if "lr" in settings else self.small_lr,
        )

    def each_pair(self):
        """Return this profile for each of its pairs."""
        return [dataclasses.replace(self, pairs=(pair,)) for pair in self.pairs]

    def _runs(self, **settings):
        teacher, student = self.pairs[0]
        pair = {"teacher": teacher, "student": student}
        return [self.settings | pair | settings | {"seed": seed} for seed in self.seeds]

    def teachers(self, debias="none", lam=0.0):
        """Return the teacher's runs, trained with a debiaser or without: one per seed, or one for all seeds."""
        recipe = {
            name.removeprefix(TEACHER): value for name, value in self.settings.items() if name.startswith(TEACHER)
        }
        trained = self._runs(student=self.pairs[0][0], method="scratch", debias=debias, lam=lam, **recipe)
        return trained if "seed" not in recipe else [trained[0] | {"seed": recipe["seed"]}]

    def teacher_kinds(self):
        """Return {name: runs}: the teacher, and the debiased one where there is one."""
        kinds = {"teacher": self.teachers()}
        if self.teacher_debias != "none":
            kinds[f"teacher, {self.teacher_debias.replace('_', '-')}"] = self.teachers(self.teacher_debias)
        return kinds

    def teacher_of(self, position, debias="none"):
        """Return the teacher of the students of the seed at this position: its own, or the one that all share."""
        return self.teachers(debias)[0 if "teacher_seed" in self.settings else position]

    def students(self, method, debias="none", lam=0.0, teacher_debias="none", options_of_method=None, **recipe):
        """Return the student's runs under a method; "scratch" is the student alone, the control with the same budget.

        Parameters
        ----------
        options_of_method : dict, optional
            In place of the weights that were published for the pair.
        **recipe
            Settings in place of the profile's.
        """
        given = recipes.pair_weights(method, *self.pairs[0]) if options_of_method is None else options_of_method
        recipe = {"lr": self._student_lr(), "method_options": _spelled(method, given)} | recipe
        return self._runs(method=method, debias=debias, lam=lam, teacher_debias=teacher_debias, **recipe)

    def _student_lr(self):
        return self.small_lr if self.small_lr and recipes.is_small(self.pairs[0][1]) else self.settings["lr"]

    def as_published(self, method):
        """Return the student's runs under the method's own published recipe."""
        return self.students(method, **recipes.published_recipe(method, *self.pairs[0]))

    def debiased(self, method):
        """Return the method's student under each debiaser, over its λ; those that need a teacher are not for method scratch."""
        from kdlib import debias

        return [
            run
            for name, strengths in self.debias.items()
            if method != "scratch" or not debias.needs_teacher(name)
            for lam in strengths
            for run in self.students(method, name, lam)
        ]

    def two_by_two(self, method):
        """Return the runs of teacher debiased or not × student debiased or not."""
        choices = dict.fromkeys(("none", self.teacher_debias))
        return [
            run for teacher in choices for student in choices for run in self.students(method, student, 0.0, teacher)
        ]

    def _control_teachers(self):
        """The debiasers of teachers in `controls`, each once: (debiaser, λ)."""
        return list(dict.fromkeys((control["teacher_debias"], control["teacher_lam"]) for control in self.controls))

    def controlled(self, method):
        """Return the runs of the method's student in each of the profile's `controls`."""
        return [run for control in self.controls for run in self.students(method, **control)]

    def tempered(self, method):
        """Return {temperature: runs} of the method's student; empty where method or profile has no temperatures."""
        from kdlib import methods

        known = methods.method_options(method)
        if "temperature" not in known or not known.get("kd", 1.0):
            return {}
        default = known["temperature"]
        return {
            each: self.students(method, temperature=None if each == default else each) for each in self.temperatures
        }

    def ablation(self):
        """Return {name: runs} from CKD to KD++ as published; empty unless the profile is `ablated`.

        It tells what the norm-and-direction term brings from what weights and optimiser bring."""
        if not self.ablated:
            return {}
        weights = recipes.pair_weights("kdpp", *self.pairs[0])
        without = weights | {"nd": 0.0}
        batch = self.settings["batch_size"]
        parts = {
            "nesterov": {"nesterov": True},
            "twice the learning rate": {"lr": 2 * self._student_lr()},
            "twice the batch": {"batch_size": 2 * batch, "teacher_batch_size": batch},
        }
        all_parts = {name: value for part in parts.values() for name, value in part.items()}
        return {
            "CKD": self.students("ckd"),
            "KD++ without its term": self.students("kdpp", options_of_method=without),
            "KD++": self.students("kdpp"),
            **{f"KD++, {name}": self.students("kdpp", **part) for name, part in parts.items()},
            "KD++, all three": self.students("kdpp", **all_parts),
            "KD++ without its term, all three": self.students("kdpp", options_of_method=without, **all_parts),
        }

    def grid(self):
        """Return every run of the study, of every pair, each kind of model under one recipe."""
        if len(self.pairs) > 1:
            return [run for one in self.each_pair() for run in one.grid()]
        controls = ("scratch", *self.methods)
        crossed = self.methods if self.teacher_debias != "none" else ()
        return [
            *self.teachers(),
            *self.teachers(self.teacher_debias),
            *(run for debias, lam in self._control_teachers() for run in self.teachers(debias, lam)),
            *(run for method in controls for run in self.students(method)),
            *(run for method in controls for run in self.debiased(method)),
            *(run for method in crossed for run in self.two_by_two(method)),
            *(run for method in self.methods for run in self.controlled(method)),
        ]

    def extras(self):
        """Return the runs beside the grid: methods as published, the parts of KD++, and other temperatures."""
        if len(self.pairs) > 1:
            return [run for one in self.each_pair() for run in one.extras()]
        return [
            *(run for method in self.published for run in self.as_published(method)),
            *(run for part in self.ablation().values() for run in part),
            *(run for method in self.methods for part in self.tempered(method).values() for run in part),
        ]


def _spelled(method, given):
    if not given:
        return ""
    from kdlib import methods

    return options.spell(given, methods.method_options(method))
