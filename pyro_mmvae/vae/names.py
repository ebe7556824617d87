"""Names of modalities where Pyro and torch need names of their own: sites of the model and keys of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from torch import nn

_SITES = frozenset({"z", "data", "z_weights_entropy", "_draw", "_INPUT", "_RETURN"})
"""Sites of model and guide, their plate, and nodes that Pyro adds to a trace."""

_SITE_PREFIX = "modality:"
_PRIVATE_SUFFIX = "_private"
_PRIVATE_PREFIX = "private:"  # of names that begin as sites do, whose suffix could make the site of another modality
_KEY_PREFIX = "%"
_ATTRIBUTES = frozenset(dir(nn.ModuleDict()))


def modality_site(name: str) -> str:
    """Return the name of the Pyro site of a modality: its own, unless another site has that name or may have it.

    Args:
        name: The name of the modality.

    Returns:
        The name, or ``modality:NAME`` for one such as ``z`` or ``a_private``.
    """
    is_taken = name in _SITES or name.endswith(_PRIVATE_SUFFIX) or name.startswith((_SITE_PREFIX, _PRIVATE_PREFIX))
    return _SITE_PREFIX + name if is_taken else name


def private_site(name: str) -> str:
    """Return the name of the Pyro site of a modality's private latent."""
    return _PRIVATE_PREFIX + name if name.startswith(_SITE_PREFIX) else name + _PRIVATE_SUFFIX


def site_modality(site: str) -> str:
    """Return the name of the modality of a site, the inverse of :func:`modality_site`."""
    return site.removeprefix(_SITE_PREFIX)


class NamedModules(nn.ModuleDict):
    """A ``ModuleDict`` whose keys may be any names.

    Torch refuses keys that are attributes of modules or contain dots. Such names are percent-encoded in the names of
    parameters, so that ``state_dict`` holds ``%type.…`` for ``type``; everywhere else the names are unchanged.

    Args:
        modules: The modules by name.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, module in modules.items():
            self[name] = module

    def __getitem__(self, key: str) -> nn.Module:
        """Return the module of a name."""
        return super().__getitem__(_encode_key(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        """Add or replace the module of a name."""
        super().__setitem__(_encode_key(key), module)

    def __delitem__(self, key: str) -> None:
        """Remove the module of a name."""
        super().__delitem__(_encode_key(key))

    def __contains__(self, key: str) -> bool:
        """Return True if there is a module of a name."""
        return super().__contains__(_encode_key(key))

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names."""
        return iter([_decode_key(key) for key in self._modules])

    def keys(self) -> Any:
        """Return the names."""
        return dict.fromkeys(self).keys()

    def items(self) -> Any:
        """Return pairs of name and module."""
        return {_decode_key(key): module for key, module in self._modules.items()}.items()


def _encode_key(name: str) -> str:
    """Return a key that torch accepts, different for different names."""
    if name and name not in _ATTRIBUTES and "." not in name and not name.startswith(_KEY_PREFIX):
        return name
    return _KEY_PREFIX + quote(name, safe="").replace(".", "%2E")


def _decode_key(key: str) -> str:
    return unquote(key.removeprefix(_KEY_PREFIX)) if key.startswith(_KEY_PREFIX) else key
