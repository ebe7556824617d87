"""Layers that take the fastest path on a CPU, where torch's own choice of kernel is sometimes slow.

Every layer has the parameters, the initial weights and, up to rounding, the values and derivatives of its counterpart
in torch. Other packages import from here only, not from the modules. The measurements are in ``docs/speed.md``.

The first condition that holds decides on the path. "Traced" means that ``torch.compile``, ``torch.func`` or
forward-mode AD follows the tensors: the autograd functions here have rules for reverse mode only.

:class:`Linear` and :func:`grouped_linear`:

1. Fewer than 2²² multiplications in one product, or an input of :class:`Linear` that does not have two dimensions:
   torch, whose BLAS is as fast there.
2. Not on a CPU, not float32, under autocast, or traced: torch.
3. A CPU without AVX, or torch without oneDNN or with oneDNN switched off: torch.
4. Otherwise: one product per group by oneDNN, then the bias.

:class:`GroupedConvolutions`, the layers of several networks:

1. On a CPU, not traced, and at least 2¹⁹ values between two layers for one network: one network after the other. A
   convolution and the ReLU that follows it are one :class:`ConvBiasReLU`; a transposed convolution that meets condition
   2 of :class:`ConvTranspose2d` is a :class:`SubpixelConvTranspose`.
2. Otherwise: all networks in one grouped call, with channels last in memory. Convolutions are torch's, transposed ones
   those of :class:`ConvTranspose2d`.

The result is contiguous in both cases; unless traced, its gradient comes back with channels last.

:class:`ConvTranspose2d`, called by itself or in a grouped call:

1. Not on a CPU, dilated, or called with ``output_size``: torch.
2. Not traced, kernel 3, stride 2, padding 1, output padding of at most 1 and at most 4 output channels per group:
   :class:`SubpixelConvTranspose`, whose backward pass is torch's.
3. Not traced and one group: :class:`ConvBiasReLU` without the ReLU.
4. Otherwise: torch without the bias, then the bias.

:class:`ConvBiasReLU`, the gradient of the weight:

1. In bfloat16, as under autocast, and at least 16 channels in the second dimension of the weight: a product with the
   patches (im2col), 2 MiB of them at a time, or with all of them under ``create_graph``.
2. Otherwise: torch.
"""

from pyro_mmvae.networks.onednn.convolutions import ConvTranspose2d as ConvTranspose2d
from pyro_mmvae.networks.onednn.convolutions import GroupedConvolutions as GroupedConvolutions
from pyro_mmvae.networks.onednn.kernels import ConvBiasReLU as ConvBiasReLU
from pyro_mmvae.networks.onednn.kernels import SubpixelConvTranspose as SubpixelConvTranspose
from pyro_mmvae.networks.onednn.linear import Linear as Linear
from pyro_mmvae.networks.onednn.linear import grouped_linear as grouped_linear
