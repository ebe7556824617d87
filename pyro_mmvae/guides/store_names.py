"""Names in Pyro's parameter store that no other module's parameters have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
from pyro.nn import PyroModule

from pyro_mmvae._typing import Tensor


class SeparatelyStored(PyroModule):
    """A Pyro module whose parameters never share a name in the parameter store with those of another module.

    Pyro's store is global. Under a name that the store has already, ``SVI`` steps the tensor in the store and not that
    of the module, so that a second module of equal names would keep its initial parameters without a word. At each call
    this module therefore looks whether the store holds other tensors under its names, and if so takes another name.
    The first module keeps the plain names; names in ``state_dict`` never change.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take a free name if another module has this one's, and call the module."""
        if not pyro.settings.get("module_local_params"):
            self._take_free_name()
        return super().__call__(*args, **kwargs)

    def _take_free_name(self) -> None:
        name = self._pyro_name
        if not _is_taken(self, name):
            return
        stem, count = f"{name}." if name else "", 2
        while _is_taken(self, f"{stem}{type(self).__name__}_{count}"):
            count += 1
        _rename(self, f"{stem}{type(self).__name__}_{count}")


def _is_taken(module: PyroModule, name: str) -> bool:
    store = pyro.get_param_store()
    # The store keeps a contiguous copy of a tensor that is not contiguous, which says nothing about its origin.
    return any(
        key in store and store._params[key] is not parameter and parameter.is_contiguous()
        for key, parameter in _stored(module, name)
    )


def _stored(module: PyroModule, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the name in the store and the tensor of each parameter of a module under a name."""
    stem = f"{name}." if name else ""
    for key, parameter in module._parameters.items():
        if parameter is not None:
            yield stem + key.removesuffix("_unconstrained"), parameter
    for key, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from _stored(child, stem + key)
        elif child is not None:
            yield from ((f"{stem}{key}$$${part}", parameter) for part, parameter in child.named_parameters())


def _rename(module: PyroModule, name: str) -> None:
    """Rename a module and its Pyro submodules; Pyro's own way refuses a submodule that was called before."""
    module._pyro_name = name
    for key, child in module._modules.items():
        if isinstance(child, PyroModule):
            _rename(child, f"{name}.{key}")
