"""Encoders, from items to the parameters of experts, and decoders, from latents to the parameters of likelihoods."""

from pyro_mmvae.networks.conv import ConvDecoder as ConvDecoder
from pyro_mmvae.networks.conv import ConvEncoder as ConvEncoder
from pyro_mmvae.networks.conv4 import Conv4Decoder as Conv4Decoder
from pyro_mmvae.networks.conv4 import Conv4Encoder as Conv4Encoder
from pyro_mmvae.networks.grouped import GroupedDecoder as GroupedDecoder
from pyro_mmvae.networks.grouped import GroupedLinear as GroupedLinear
from pyro_mmvae.networks.grouped import GroupedNetwork as GroupedNetwork
from pyro_mmvae.networks.head import GaussianHead as GaussianHead
from pyro_mmvae.networks.mlp import MLPDecoder as MLPDecoder
from pyro_mmvae.networks.mlp import MLPEncoder as MLPEncoder
from pyro_mmvae.networks.options import NetworkOptions as NetworkOptions
from pyro_mmvae.networks.registry import NETWORKS as NETWORKS
from pyro_mmvae.networks.registry import NetworkFactory as NetworkFactory
from pyro_mmvae.networks.registry import NetworkPair as NetworkPair
from pyro_mmvae.networks.registry import choose_network as choose_network
from pyro_mmvae.networks.registry import make_networks as make_networks
from pyro_mmvae.networks.registry import network_names as network_names
from pyro_mmvae.networks.registry import register_network as register_network
from pyro_mmvae.networks.registry import unregister_network as unregister_network
from pyro_mmvae.networks.residual import ResidualDecoder as ResidualDecoder
from pyro_mmvae.networks.residual import ResidualEncoder as ResidualEncoder
from pyro_mmvae.networks.text import TextDecoder as TextDecoder
from pyro_mmvae.networks.text import TextEncoder as TextEncoder
