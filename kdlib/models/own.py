"""Networks from elsewhere, with this library's output: what a function of yours returns, and timm's by name."""

import contextlib
import copy
import functools
import importlib
import inspect
import sys
from pathlib import Path

import torch
from torch import nn

from kdlib import paths

from .common import Output

TIMM = "timm/"


class Adapted(nn.Module):
    """`backbone`, a network whose last Linear was taken out, and `head`, that Linear; the embedding is what it reads.

    Parameters
    ----------
    network : nn.Module
        Images to logits (N, K), or to an object that has them as `.logits`.
    place : str or None
        Where that Linear is. None: there is none, and embeddings have no width.
    num_classes : int
    scale, shift : Tensor (1, 3, 1, 1), optional
        Images are multiplied by one and added to the other before the network sees them.
    """

    def __init__(self, network, place, num_classes, scale=None, shift=None):
        super().__init__()
        self.place, self.num_classes, self.head_name = place, num_classes, None
        self.embedding_dim = 0
        if place is not None:
            self.head, self.head_name = network.get_submodule(place), "head"
            self.embedding_dim = self.head.in_features
            network.set_submodule(place, nn.Identity())
        self.backbone = network
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images):
        given = images if self.scale is None else images * self.scale + self.shift
        output = _logits(self.backbone(given))
        return Output(output, output[:, :0]) if self.place is None else Output(self.head(output), output)

    def translate_keys(self, state_dict):
        """Return a state dict that has the network's own keys with this module's; any other as it is."""
        return with_head_apart(state_dict, self.place)


def with_head_apart(state_dict, place):
    """Return a state dict with the keys "backbone.…", and "head.…" for the Linear at `place`; as it is if it has them."""
    if any(key.startswith("backbone.") for key in state_dict):
        return state_dict
    start = f"{place}."
    return {
        "head." + key.removeprefix(start) if key.startswith(start) else "backbone." + key: value
        for key, value in state_dict.items()
    }


def from_timm(name, num_classes, pretrained=False):
    """Return timm's network of that name, with a new head; with `pretrained`, from timm's published weights.

    Raises
    ------
    ImportError
        Without the extra `timm`.
    ValueError
        For a name that timm does not know, and a network that does not end with one Linear.
    RuntimeError
        Where the weights cannot be downloaded.
    """
    timm = _timm()
    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        close = timm.list_models(f"*{short.partition('.')[0]}*")[:6]
        raise ValueError(f"timm has no network {short!r}" + (f"; it has {', '.join(close)}" if close else ""))
    try:
        network = timm.create_model(short, pretrained=pretrained, num_classes=num_classes)
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"timm's weights of {short} could not be loaded ({type(error).__name__}: {error}). Fetch them on a machine that "
            "can, or give a file with weights"
        ) from error
    head = network.get_classifier()
    place = next((place for place, module in network.named_modules() if module is head), None)
    if not isinstance(head, nn.Linear) or place is None:
        raise ValueError(f"{name} does not end with one Linear, so it has no embedding: take another network")
    return Adapted(network, place, num_classes)


def timm_weights(name) -> str:
    """Return what names timm's published weights of a network."""
    config = _timm().get_pretrained_cfg(name.removeprefix(TIMM))
    if config is None or not config.has_weights:
        raise ValueError(f"{name} has no published weights; give a file with weights, or none")
    return f"{config.architecture}.{config.tag}"


def _timm():
    try:
        import timm
    except ImportError as error:
        raise ImportError('networks of timm need the extra: pip install -e ".[timm]"') from error
    return timm


@functools.lru_cache(maxsize=4)
def returned(name) -> nn.Module:
    """Return the network of "package.module:function", in eval mode; "#place" at the end names its last Linear.

    Raises
    ------
    ValueError
        Where there is no such module or function, and where it fails or returns something else.
    """
    target = name.partition("#")[0]
    module, _, attribute = target.partition(":")
    places = [str(place) for place in (Path.cwd(), paths.ROOT) if str(place) not in sys.path]
    sys.path[:0] = places
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name}: there is no module {error.name!r} in {Path.cwd()} or among the installed packages"
        ) from error
    finally:
        sys.path[:] = [place for place in sys.path if place not in places]
    if not callable(function):
        known = [n for n, item in vars(sys.modules[module]).items() if inspect.isfunction(item) and n[0] != "_"]
        raise ValueError(f"{name}: {module} has no function {attribute!r}; it has {', '.join(known) or 'none'}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = function()
    except Exception as error:
        raise ValueError(f"{target}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{target}() returns a {type(network).__name__}, not a network (torch.nn.Module)")
    return network.cpu().float().eval()


def from_function(name, num_classes, size, mean, std):
    """Return what `returned` gives, adapted to a data set.

    Where the network, or timm's `pretrained_cfg` of it, has `mean` and `std` (three numbers each, of pixels in [0, 1]), it gets
    images that are normalised by them. The embedding is the input of the last Linear that gives the logits.

    Parameters
    ----------
    name : str
        As of `returned`.
    num_classes : int
    size : int
        Pixels per side.
    mean, std : sequence of float, (3,)
        By which the images that it gets are normalised.

    Raises
    ------
    ValueError
        As `returned`; for a network that cannot take such images, or gives something else than (N, num_classes) logits.
    """
    network = copy.deepcopy(returned(name))
    scale, shift = _normalisation(network, mean, std)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, size, size, generator=generator)
    if scale is not None:
        images = images * scale + shift
    called, hooks = [], []
    for place, module in network.named_modules():
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(lambda *_, place=place: called.append(place)))
    try:
        with torch.no_grad():
            logits = _logits(network(images))
    except Exception as error:
        raise ValueError(
            f"{name} cannot take images of {size} × {size} pixels: {str(error).splitlines()[0]}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    if not torch.is_tensor(logits) or logits.shape != (2, num_classes):
        gives = tuple(logits.shape[1:]) if torch.is_tensor(logits) else type(logits).__name__
        raise ValueError(
            f"{name} gives {gives} for an image; the data have {num_classes} classes: ({num_classes},) is needed"
        )
    named = name.partition("#")[2]
    for place in [named] if named else called[::-1][:1]:
        if place not in called:
            raise ValueError(f"{name}: no Linear {place!r} is used; those used are {', '.join(called) or 'none'}")
        adapted = Adapted(copy.deepcopy(network), place, num_classes, scale, shift)
        if _fits(adapted, images, logits):
            return adapted
        if named:
            raise ValueError(f"{name}: the logits are not what {place!r} gives, so its input is no embedding of them")
    return Adapted(network, None, num_classes, scale, shift)


def _fits(adapted, images, logits):
    """Whether the head of an adapted network gives these logits of images, from what the rest of it gives."""
    with torch.no_grad(), contextlib.suppress(RuntimeError):  # another layer may stand between the two
        return torch.allclose(adapted.head(_logits(adapted.backbone(images))), logits, rtol=1e-4, atol=1e-5)
    return False


def _normalisation(network, mean, std):
    """(scale, shift) from images normalised by mean and std to those normalised by the network's own; (None, None): none."""
    config = getattr(network, "pretrained_cfg", None) or {}
    own = [getattr(network, part, None) or config.get(part) for part in ("mean", "std")]
    if None in own:
        return None, None
    mean, std, own_mean, own_std = (
        torch.tensor(part, dtype=torch.float32).view(1, 3, 1, 1) for part in (mean, std, *own)
    )
    return std / own_std, (mean - own_mean) / own_std


def _logits(output):
    return getattr(output, "logits", output)
