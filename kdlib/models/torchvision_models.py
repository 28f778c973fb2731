"""torchvision's classification networks, by torchvision's own names, with their published weights or without.

The networks are torchvision's; this adapter gives them this library's output, and a head for any number of classes.
"""

import os

import torch
from torch import nn
from torchvision import models

from .common import Output, check_images
from .own import with_head_apart

# Both have auxiliary classifiers, and warn unless told how to start the weights
AUXILIARY = ("googlenet", "inception_v3")

# These also read smaller images than torchvision states
ANY_SIZE = ("swin", "efficientnet_v2")

# These classify with a convolution before the pooling: there is no Linear, hence no embedding.
WITHOUT_LINEAR = ("squeezenet1_0", "squeezenet1_1")


def names():
    """Return the names of torchvision's classification networks, except those without an embedding."""
    return [name for name in models.list_models(module=models) if name not in WITHOUT_LINEAR]


class TorchvisionModel(nn.Module):
    """`backbone`, the network without its last Linear, and `head`, that Linear.

    forward: N × 3 × H × W floats -> Output. The embedding is what the network's last Linear reads, so in training it
    has passed the dropout that many of these networks have before that layer.

    The last Linear is cut out, not watched by a hook: gradients, `torch.compile`, export and copies then work as for
    any module. Its keys differ from torchvision's by that cut; `translate_keys` translates.
    """

    head_name = "head"

    def __init__(self, name, num_classes, weights=None):
        super().__init__()
        if name in WITHOUT_LINEAR:
            raise ValueError(f"{name} classifies with a convolution: it has no Linear, hence no embedding")
        weights = _find_weights(name, weights)
        net = _build(name, num_classes, weights)
        # torchvision registers layers in the order in which they run, and the other classifiers all end with a Linear.
        self.torchvision_head = [place for place, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
        head = net.get_submodule(self.torchvision_head)
        net.set_submodule(self.torchvision_head, nn.Identity())
        if head.out_features != num_classes:
            head = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
        self.backbone, self.head = net, head
        self.num_classes, self.embedding_dim = num_classes, head.in_features
        sizes = [w.meta["min_size"][0] for w in ([weights] if weights else models.get_model_weights(name))]
        self.least_size = 1 if name.startswith(ANY_SIZE) else min(sizes)

    def forward(self, images):
        check_images(images, self.least_size)
        embedding = self.backbone(images)
        return Output(self.head(embedding), embedding)

    def translate_keys(self, state_dict):
        """Return a state dict that has torchvision's keys, as "fc.weight", with this model's; any other as it is."""
        return with_head_apart(state_dict, self.torchvision_head)


def _find_weights(name, weights):
    """Return the weights' entry in torchvision's list, None for None. Raises ValueError, with the list, for unknown ones."""
    if weights is None:
        return None
    entries = models.get_model_weights(name)
    if isinstance(weights, entries):
        return weights
    wanted = str(weights).rpartition(".")[2]
    if wanted not in entries.__members__:
        raise ValueError(f"{name} has no weights {weights!r}; it has {', '.join(entries.__members__)}")
    return entries[wanted]


def weights_file(name):
    """Return the file name of the network's newest published weights in torch's hub."""
    return os.path.basename(_find_weights(name, "DEFAULT").url)


def _build(name, num_classes, weights):
    """Return torchvision's network, without auxiliary classifiers.

    Raises RuntimeError if the weights cannot be downloaded, naming the file, its address and the folder it belongs in.
    """
    if weights is None:
        init = {"init_weights": True} if name in AUXILIARY else {}
        net = models.get_model(name, weights=None, num_classes=num_classes, **init)
    else:
        try:
            net = models.get_model(name, weights=weights, progress=False)
        except Exception as error:
            folder = os.path.join(torch.hub.get_dir(), "checkpoints")
            raise RuntimeError(
                f"the published weights {weights} could not be loaded ({type(error).__name__}: {error}). Download "
                f"{weights.url} on a machine that can, and put the file {os.path.basename(weights.url)} into {folder}; or "
                "train from scratch (--weights none)"
            ) from error
    if name in AUXILIARY:
        net.aux_logits = False
        for part in ("aux1", "aux2", "AuxLogits"):
            if hasattr(net, part):
                setattr(net, part, None)
    return net
