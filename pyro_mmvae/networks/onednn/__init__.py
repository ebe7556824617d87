"""Layers that take the fastest way on a CPU, which torch's own choice of kernel sometimes is not.

Every layer has the parameters, the initial weights and, up to rounding, the values and derivatives of its counterpart
in torch. Other packages import from here only, not from the modules. The measurements are in ``docs/speed.md``.

"Traced" below means that ``torch.compile``, ``torch.func`` or forward-mode AD follows the tensors: the autograd
functions here have rules for reverse mode only. Conditions are tried from top to bottom.

:class:`Linear` and :func:`grouped_linear`, one product per group:

=============================================================================  =========================================
Condition                                                                      Way
=============================================================================  =========================================
fewer than 2²² multiplications in a product                                    torch's BLAS, which is as fast there
not on a CPU, not float32, under autocast, or traced                           torch
CPU without AVX, or torch without oneDNN, or with oneDNN switched off          torch
``Linear`` with an input that does not have two dimensions                     torch
otherwise                                                                      oneDNN's product, then the bias
=============================================================================  =========================================

:class:`GroupedConvolutions`, the layers of several networks:

=============================================================================  =========================================
Condition                                                                      Way
=============================================================================  =========================================
on a CPU, not traced, and at least 2¹⁹ values per network between two layers   one network after the other: each plain
                                                                               convolution as :class:`ConvBiasReLU` with
                                                                               the ReLU that follows it, each sub-pixel
                                                                               one as :class:`SubpixelConvTranspose`
otherwise                                                                      all networks in one grouped call, with
                                                                               channels last; transposed convolutions
                                                                               as in the next table
=============================================================================  =========================================

The result is contiguous in both cases; unless traced, its gradient comes back channels last.

:class:`ConvTranspose2d`, where it is called by itself or in one grouped call:

=============================================================================  =========================================
Condition                                                                      Way
=============================================================================  =========================================
not on a CPU, dilated, or called with ``output_size``                          torch
not traced, kernel 3, stride 2, padding 1, output padding of at most 1, and    :class:`SubpixelConvTranspose`, whose
at most 4 output channels per group                                            backward pass is torch's
not traced, one group                                                          :class:`ConvBiasReLU` without the ReLU
otherwise                                                                      torch without the bias, then the bias
=============================================================================  =========================================

:class:`ConvBiasReLU`, the gradient of the weight:

=============================================================================  =========================================
Condition                                                                      Way
=============================================================================  =========================================
bfloat16 (by autocast, as a rule) and at least 16 channels in the weight's     product with the patches (``im2col``), 2
second dimension                                                               MiB of them at a time, or all with
                                                                               ``create_graph``
otherwise                                                                      torch
=============================================================================  =========================================
"""

from pyro_mmvae.networks.onednn.convolutions import ConvTranspose2d as ConvTranspose2d
from pyro_mmvae.networks.onednn.convolutions import GroupedConvolutions as GroupedConvolutions
from pyro_mmvae.networks.onednn.kernels import ConvBiasReLU as ConvBiasReLU
from pyro_mmvae.networks.onednn.kernels import SubpixelConvTranspose as SubpixelConvTranspose
from pyro_mmvae.networks.onednn.linear import Linear as Linear
from pyro_mmvae.networks.onednn.linear import grouped_linear as grouped_linear
