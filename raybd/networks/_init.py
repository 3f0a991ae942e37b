"""Initialisation of convolutions."""

from torch import nn


def kaiming(network: nn.Sequential) -> nn.Sequential:
    """Keep the variance of the gradient from layer to layer.

    He et al. 2015, arXiv 1502.01852, section 2.2.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
