"""The training loop: the same seed gives the same bits, a resumed run is an uninterrupted one, and NaN stops it by name."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdlib import debias, methods, models, teachers
from kdlib import train as training
from kdlib.data.augment import Images, draw_order, draw_views, number_of_views
from kdlib.models import Output
from kdlib.train import NotFinite, batches, build_schedule, train

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
LABELS = torch.from_numpy(GENERATOR.integers(0, 3, 40))
GROUP = torch.from_numpy(GENERATOR.integers(0, 2, 40))
IMAGES = Images(PIXELS, (0.5,) * 3, (0.25,) * 3, padding=1)


def teacher_bank(budget=1 << 30):
    torch.manual_seed(9)
    return teachers.TeacherBank(models.build_model("convnet_8", 3), IMAGES, number_of_views(1, False), budget=budget)


def go(method="ckd", epochs=3, bank=None, **options):
    torch.manual_seed(0)
    model = models.build_model("convnet_4", 3)
    bank = bank or teacher_bank()
    means = torch.randn(3, bank.teacher.embedding_dim, generator=torch.Generator().manual_seed(1))
    dims = {"student_dim": model.embedding_dim, "teacher_dim": bank.teacher.embedding_dim, "class_means": means}
    dims["num_classes"] = 3
    torch.manual_seed(1)
    built = methods.build_method(method, **dims)
    settings = {"epochs": epochs, "batch_size": 16, "lr": 0.05, "seed": 3, "bank": bank, "log": lambda line: None}
    history = train(model, IMAGES, LABELS, GROUP, built, **settings | options)
    return model, history


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("method", methods.METHODS)
def test_one_seed_gives_one_result_bit_for_bit(method):
    (one, first), (other, second) = (go(method, epochs=2) for _ in range(2))
    assert same(one, other)
    assert [row | {"seconds": 0} for row in first] == [row | {"seconds": 0} for row in second]
    assert not same(one, go(method, epochs=2, seed=4)[0])


@pytest.mark.parametrize("method", ["ckd", "rkd", "kdpp"])
def test_a_run_takes_the_same_steps_with_a_bank_as_without(method):
    filled = teacher_bank()
    first = go(method, bank=filled)[0]
    forwards = filled.forwards
    assert same(first, go(method, bank=filled)[0])
    assert filled.forwards == forwards <= 3 * 40
    without = teacher_bank(budget=0)
    assert same(first, go(method, bank=without)[0])
    assert without.forwards == 3 * 40


def test_the_loop_takes_the_steps_of_a_simple_one():
    """No bank, no fused optimiser: an image is cut out and normalised alone, and the teacher sees every batch."""
    count, size = 128, 64  # whole batches of the bank's own number of images, so that every bit is the same
    pixels = GENERATOR.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    labels = torch.from_numpy(GENERATOR.integers(0, 3, count))
    images = Images(pixels, (0.5,) * 3, (0.25,) * 3, padding=1, flip=True)
    torch.manual_seed(9)
    teacher = models.build_model("convnet_8", 3)
    bank = teachers.TeacherBank(teacher, images, number_of_views(1, True))
    torch.manual_seed(0)
    ours, simple = models.build_model("convnet_4", 3), models.build_model("convnet_4", 3)
    simple.load_state_dict(ours.state_dict())
    options = {"batch_size": size, "schedule": "constant", "bank": bank, "log": lambda line: None}
    train(ours, images, labels, labels, methods.build_method("ckd"), epochs=2, lr=0.05, seed=3, **options)

    optimizer = torch.optim.SGD(simple.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in (1, 2):
        view = draw_views(count, 18, seed=3, epoch=epoch)
        for index in draw_order(count, seed=3, epoch=epoch).split(size):
            batch = []
            for image in index.tolist():
                mirrored, shift = divmod(view[image].item(), 9)
                row, column = divmod(shift, 3)
                cut = np.pad(pixels[image], ((0, 0), (1, 1), (1, 1)))[:, row : row + 8, column : column + 8]
                cut = torch.from_numpy(cut[:, :, ::-1].copy() if mirrored else cut)
                batch.append(torch.addcmul(images.shift[0], cut.float(), images.scale[0]))
            batch = torch.stack(batch)
            with torch.no_grad():
                soft = torch.log_softmax(teacher.eval()(batch).logits / 4.0, 1)
            optimizer.zero_grad()
            logits = simple.train()(batch).logits
            divergence = torch.nn.functional.kl_div(
                torch.log_softmax(logits / 4.0, 1), soft, reduction="none", log_target=True
            )
            loss = 0.1 * torch.nn.functional.cross_entropy(logits, labels[index])
            (loss + 0.9 * (16.0 * divergence.sum(1)).mean()).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), simple.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_finite_loss_with_gradients_that_are_not_leaves_no_checkpoint_of_them(tmp_path):
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values, epoch):
            ctx.epoch = epoch
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * (float("nan") if ctx.epoch == 3 else 1.0), None

    plain = methods.build_method("scratch")

    def terms(student, teacher, labels, epoch, weights=None):
        return plain.terms(student._replace(logits=Broken.apply(student.logits, epoch)), teacher, labels, epoch)

    torch.manual_seed(0)
    model, checkpoint = models.build_model("convnet_4", 3), tmp_path / "checkpoint.pt"
    settings = {"epochs": 4, "batch_size": 40, "lr": 0.05, "seed": 3, "log": lambda line: None}
    method = dataclasses.replace(plain, terms=terms)
    with pytest.raises(training.NotFinite, match=r"not finite after epoch 3"):
        train(model, IMAGES, LABELS, GROUP, method, checkpoint=checkpoint, checkpoint_seconds=0, **settings)
    kept = torch.load(checkpoint, weights_only=True)
    assert len(kept["history"]) == 2
    assert all(tensor.isfinite().all() for tensor in kept["parts"]["model"].values())


def test_the_learning_rate_in_the_history_is_the_epochs_own():
    _, history = go("scratch", epochs=8, schedule="step", lr=0.08)  # of 240 epochs: 150, 180, 210 are 5, 6, 7 of 8
    assert [row["lr"] for row in history] == pytest.approx([0.08] * 5 + [0.008, 0.0008, 0.00008])


class Reads(TorchDispatchMode):
    """Counts the operations that make the host wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "is_nonzero")
        self.count += any(function._schema.name == f"aten::{name}" for name in waits)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def filled_bank():
    """Every view of every image is kept: a step that misses one would read."""
    bank = teacher_bank()
    for view in range(number_of_views(1, False)):
        bank.batches([torch.arange(40)], torch.full((40,), view))
    return bank


@pytest.mark.parametrize(
    ("method", "name"),
    [*((method, "none") for method in methods.METHODS), *(("ckd", name) for name in debias.DEBIASERS)],
)
def test_no_step_reads_anything_back(method, name, monkeypatch, filled_bank):
    monkeypatch.setattr(training, "check_finite", lambda *arguments: None)  # on a CPU it looks at each step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # its count of steps is in host memory
    bank, counts = filled_bank, []
    for batch_size in (20, 10):  # some steps, and twice as many
        with Reads() as reads:
            setting = {"num_classes": 3, "num_groups": 2, "embedding_dim": 16, "labels": LABELS, "group": GROUP}
            width = bank.teacher.embedding_dim
            outputs = Output(torch.zeros(40, 3), torch.zeros(40, width))
            held_out = debias.Batch(LABELS, GROUP, teacher=outputs)
            head = models.get_head(bank.teacher)
            setting["teacher"] = debias.Teacher(width, lambda o=outputs: o, head, lambda b=held_out: b)
            lam = 1.0 if name != "none" and debias.has_strength(name) else 0.0
            built = debias.build_debiaser(name, lam=lam, device="cpu", **setting)
            go(method, epochs=1, bank=bank, batch_size=batch_size, debiaser=built)
        counts.append(reads.count)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("method", "optimizer"), [("ckd", "sgd"), ("ckd", "adam"), ("ctkd", "sgd"), ("kdpp", "sgd")])
def test_a_resumed_run_equals_an_uninterrupted_one(method, optimizer, tmp_path):
    class Killed(Exception):
        pass

    def kill_after_two(line):
        if line.startswith("epoch   2"):
            raise Killed

    options = {"epochs": 4, "checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0, "optimizer": optimizer}
    with pytest.raises(Killed):  # the log line comes before the checkpoint: epoch 2 is lost, epoch 1 is not
        go(method, **options, log=kill_after_two)
    lines = []
    resumed, history = go(method, **options, log=lines.append)
    assert lines[0] == "resuming after epoch 1"
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert same(resumed, go(method, epochs=4, optimizer=optimizer)[0])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_a_damaged_checkpoint_is_set_aside_and_training_starts_over(content, tmp_path):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(content)
    lines = []
    model, _ = go(checkpoint=file, log=lines.append)
    assert "starts over" in lines[0]
    assert (tmp_path / "checkpoint.damaged").read_bytes() == content
    assert same(model, go()[0])


def test_nan_stops_the_run_and_names_term_epoch_and_step():
    def broken(student, teacher, labels, epoch, weights=None):
        terms = methods.build_method("ckd").terms(student, teacher, labels, epoch)
        return terms | ({"odd": terms["kd"] * float("nan")} if epoch == 2 else {"odd": terms["kd"] * 0})

    torch.manual_seed(0)
    with pytest.raises(NotFinite, match=r"'odd' is nan in epoch 2, step 1"):
        train(
            models.build_model("convnet_4", 3), IMAGES, LABELS, GROUP, methods.Method(broken), bank=teacher_bank(),
            epochs=3, batch_size=16, lr=0.05, seed=0, log=lambda line: None,
        )  # fmt: skip


def test_adam_is_kingma_and_bas_with_decay_in_the_gradient():
    options = dict(lr=0.01, schedule="constant", weight_decay=0.1, momentum=0.8, batch_size=40, seed=3)
    model, _ = go("scratch", epochs=2, optimizer="adam", **options)
    torch.manual_seed(0)
    slow = models.build_model("convnet_4", 3).train()
    means = [(torch.zeros_like(each), torch.zeros_like(each)) for each in slow.parameters()]
    for step in (1, 2):  # an epoch is one batch of all images
        order, view = draw_order(40, seed=3, epoch=step), draw_views(40, number_of_views(1, False), seed=3, epoch=step)
        loss = torch.nn.functional.cross_entropy(slow(IMAGES.views(order, view[order])).logits, LABELS[order])
        gradients = torch.autograd.grad(loss, list(slow.parameters()))
        with torch.no_grad():
            for each, gradient, (first, second) in zip(slow.parameters(), gradients, means, strict=True):
                gradient = gradient + 0.1 * each
                first.mul_(0.8).add_(0.2 * gradient)
                second.mul_(0.999).add_(0.001 * gradient**2)
                each -= 0.01 * (first / (1 - 0.8**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    for one, other in zip(model.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not same(model, go("scratch", epochs=2, **options)[0])


def test_every_step_sums_the_named_terms_and_training_lowers_the_loss():
    _, history = go("ckd", epochs=20, lr=0.2)
    assert history[-1]["ce"] + history[-1]["kd"] < 0.7 * (history[0]["ce"] + history[0]["kd"])
    assert {"epoch", "lr", "ce", "kd", "seconds"} <= set(history[0])


def test_the_distillation_term_teaches_without_labels():
    """A regression of the earlier study: with a KD term of 0 the student learned nothing from the teacher."""
    torch.manual_seed(0)
    model, bank = models.build_model("convnet_4", 3), teacher_bank()
    with torch.no_grad():
        target = bank.teacher(IMAGES.plain(0, 40)).logits.argmax(1)
    options = {"epochs": 30, "batch_size": 16, "lr": 0.2, "seed": 0, "log": lambda line: None}
    method = methods.build_method("ckd", ce=0.0, kd=1.0)
    history = train(model, IMAGES, torch.zeros_like(LABELS), GROUP, method, bank=bank, **options)
    assert history[0]["kd"] > 0
    assert history[-1]["kd"] < 0.5 * history[0]["kd"]
    with torch.no_grad():
        agreement = (model.eval()(IMAGES.plain(0, 40)).logits.argmax(1) == target).float().mean()
    assert agreement > 0.8


def test_kdpp_and_rkd_reach_the_backbone():
    """Two more regressions of the earlier study: detached features, and relations of logits instead of embeddings."""
    for method, term in (("rkd", "distance"), ("rkd", "angle"), ("kdpp", "nd")):
        torch.manual_seed(0)
        model, bank = models.build_model("convnet_4", 3), teacher_bank()
        dims = {"student_dim": 16, "teacher_dim": 32, "class_means": torch.ones(3, 32)}
        output = model(IMAGES.plain(0, 16))
        (teacher,) = bank.batches([torch.arange(16)], torch.full((16,), 4))
        terms = methods.build_method(method, **dims).terms(output, teacher, LABELS[:16], epoch=1)
        gradients = torch.autograd.grad(terms[term], list(model.parameters()), allow_unused=True)
        names = [name for name, _ in model.named_parameters()]
        reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
        assert next(iter(names)) in reached, f"{method}'s {term} does not reach the first layer"
        assert not [name for name in reached if name.startswith("fc")], f"{method}'s {term} reads the logits"


def test_temperature_does_not_decay_to_zero_and_is_adversarial():
    _, history = go("ctkd", epochs=12)
    temperatures = [row["temperature"] for row in history]
    assert min(temperatures) > 1
    assert temperatures[0] != temperatures[-1]


def test_batches_keep_every_sample_and_never_one_alone():
    assert [len(batch) for batch in batches(torch.arange(40), 16)] == [16, 16, 8]
    assert [len(batch) for batch in batches(torch.arange(33), 16)] == [16, 17]
    assert torch.equal(torch.cat(batches(torch.arange(33), 16)), torch.arange(33))


@pytest.mark.parametrize(
    ("epoch", "rate"), [(150, 0.05), (151, 0.005), (180, 0.005), (181, 5e-4), (210, 5e-4), (211, 5e-5)]
)
def test_step_schedule_boundaries(epoch, rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = build_schedule("step", optimizer, lr=0.05, epochs=240, steps=2)
    used = []
    for _ in range(2 * epoch):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert used[-1] == pytest.approx(rate), "the last step of the epoch"
    assert used[-2] == pytest.approx(rate), "and its first"


RKDS = [(60, 0.1), (61, 0.02), (120, 0.02), (121, 4e-3), (160, 4e-3), (161, 8e-4)]
CIFAR10S = [(50, 0.1), (51, 0.01), (101, 1e-3), (151, 1e-4)]


@pytest.mark.parametrize(
    ("name", "epoch", "rate"),
    [*(("step_rkd", *each) for each in RKDS), *(("step_quarters", *each) for each in CIFAR10S)],
)
def test_boundaries_of_the_schedules_of_200_epochs(name, epoch, rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = build_schedule(name, optimizer, lr=0.1, epochs=200, steps=3)
    for _ in range(3 * epoch - 1):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_labels_outside_the_range_are_refused():
    model = models.build_model("convnet_4", 3)
    method = methods.build_method("scratch")
    with pytest.raises(ValueError, match=r"0 … 2, found 1 … 3"):
        train(model, IMAGES, LABELS + 1, GROUP, method, epochs=1, batch_size=16, lr=0.1, seed=0)


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    schedule = build_schedule("one_cycle", optimizer, lr=0.2, epochs=10, steps=5)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.2, rel=0.01)
    assert rates[-1] < 0.001
    assert optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(ValueError, match="one_cycle"):
        build_schedule("onecycle", optimizer, lr=0.2, epochs=10, steps=5)
