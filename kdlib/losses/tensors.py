"""What the losses share: full precision, checks of their input, sample weights, and the reversed gradient."""

import functools

import torch


def at_least_float32(tensor):
    """Return the tensor, in float32 if it is half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def in_full_precision(loss):
    """Decorate loss(student, teacher, ...): float32 or better, autocast off, no gradient for the teacher."""

    @functools.wraps(loss)
    def run(student, teacher, *args, **kwargs):
        with torch.autocast(student.device.type, enabled=False):
            return loss(at_least_float32(student), at_least_float32(teacher.detach()), *args, **kwargs)

    return run


def check_same_shape(student, teacher, what):
    """Raise ValueError unless both are matrices of one shape."""
    if student.shape != teacher.shape or student.dim() != 2:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"student and teacher {what} must be (N, K) and alike, got {shapes}")


def check_same_batch(student, teacher):
    """Raise ValueError unless both are matrices with the same number of rows."""
    if student.dim() != 2 or teacher.dim() != 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ValueError(f"student and teacher embedding must be (N, d_student) and (N, d_teacher), got {shapes}")


def check_temperature(temperature):
    """Raise ValueError for a number that is not positive; a tensor is not read, for which a step would wait."""
    if not torch.is_tensor(temperature) and not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def weighted_mean(per_sample, weights):
    """Return the mean of (N,), each entry multiplied by its weight if there are weights."""
    return per_sample.mean() if weights is None else (per_sample * weights).mean()


def one_hot(labels, num_classes):
    """Return float32 (N, num_classes) for int64 labels (N,), with a row of zeros for −1.

    torch's own function checks the range of the labels, for which a training step would wait."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, scale):
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.scale * gradient, None


def reverse_gradient(values, scale=1.0):
    """Return `values` unchanged; their gradient is multiplied by −scale.

    What comes before this ascends the loss that everything behind it descends.

    References
    ----------
    Ganin & Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015.

    Examples
    --------
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> reverse_gradient(x, 0.5).square().backward()
    >>> x.grad
    tensor(-3.)
    """
    return _ReverseGradient.apply(values, scale)
