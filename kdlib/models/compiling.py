"""A network's forward and backward pass compiled by torch, with its kernels in CUDA graphs, for long runs on a GPU.

On CPUs it does not pay: with torch 2.14 a float32 step of resnet8 took 41 ms instead of 51, other networks and bfloat16 gained
nothing, and compiling takes a minute."""

import copy
import functools
import time

import torch

from .common import in_precision


def compiled(model, **options):
    """Return a function that computes model(images). Networks of one shape share the compiled code.

    `options` go to torch.compile; the defaults are CUDA graphs and fixed shapes."""
    call = _compiled_call(**options)

    def forward(images):
        torch.compiler.cudagraph_mark_step_begin()  # the last step's output may be overwritten
        return call(model, images)

    return forward


def compiled_if_it_works(model, images, *, precision, log=print, **options):
    """Return `compiled(model)`, or None (logged) if this machine cannot compile it.

    It is tried on a copy of the model with `images`, a batch as in training. Neither the model's statistics nor torch's random
    numbers change."""
    began, twin = time.monotonic(), copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng():
            with in_precision(precision, images.device):
                output = compiled(twin, **options)(images)
            sum(part.float().sum() for part in output).backward()
    except Exception as error:  # compilers fail in many ways
        log(f"the step is not compiled: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None
    log(f"step compiled in {time.monotonic() - began:.0f} s, for this process's further runs of the same shape too")
    return compiled(model, **options)


@functools.cache
def _compiled_call(**options):
    torch._dynamo.config.recompile_limit = 64  # one function is compiled for every shape of network and batch
    return torch.compile(_call, **({"mode": "reduce-overhead", "dynamic": False} | options))


def _call(model, images):
    return model(images)
