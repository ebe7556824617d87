"""A guard against a guide's plate of another size than the model's, which Pyro scales without a word."""

from __future__ import annotations

import weakref
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_messenger import TraceMessenger

from pyro_mmvae._compat import handler_stack, is_plate_site


class _Token:
    """Lives as long as the trace of one run of a guide."""


class PlateWatch(Messenger):
    """Sees the model's plate when the model is replayed against the guide, and compares its size with the guide's.

    Pyro runs the guide first and checks only that the two plates have the same number of *indices*: a guide plate of
    the batch's size under a model plate of the data's size passes, and the ELBO is wrong by their ratio. So on its
    first call in an inference the guide leaves this handler under the handlers at work. It acts only on a model that
    replays this very run of the guide, which it knows by a token in the guide's site, and leaves the stack once it has
    seen the plate or the guide's trace is gone.
    """

    def __init__(self, guide: Any, size: int, token: _Token) -> None:
        super().__init__()
        self.guide, self.token, self.size = weakref.ref(guide), weakref.ref(token), size

    @classmethod
    def install(cls, guide: Any, size: int) -> dict[str, _Token]:
        """Put a watch under the stack, if a guide is being traced, and return what its site must carry."""
        if not any(isinstance(handler, TraceMessenger) for handler in handler_stack()):
            return {}
        # One is enough, however many traces of the guide somebody keeps. The guide does not hold it: it can be pickled.
        for handler in [h for h in handler_stack() if isinstance(h, cls) and h.guide() is guide]:
            handler.remove()
        token = _Token()
        watch = cls(guide, size, token)
        weakref.finalize(token, watch.remove)
        handler_stack().insert(0, watch)
        return {_TOKEN_KEY: token}

    def remove(self) -> None:
        """Leave the stack."""
        if self in handler_stack():
            handler_stack().remove(self)

    def _is_replay_of_my_guide(self, site: str) -> bool:
        token = self.token()
        for handler in handler_stack():
            if isinstance(handler, ReplayMessenger) and handler.trace is not None and site in handler.trace.nodes:
                infer: Any = handler.trace.nodes[site].get("infer") or {}
                if token is not None and infer.get(_TOKEN_KEY) is token:
                    return True
        return False

    def _pyro_sample(self, msg: Any) -> None:
        guide = self.guide()
        if guide is None or msg["name"] != guide.plate or not is_plate_site(msg["fn"]):
            return
        if not self._is_replay_of_my_guide(guide.site):
            return
        self.remove()
        if msg["fn"].size != self.size:
            raise ValueError(
                f"BarycentricGuide: plate {guide.plate!r} has size {msg['fn'].size} in the model and {self.size} in "
                f"the guide, so their log probabilities would be scaled differently: pass plate_size="
                f"{msg['fn'].size} to the guide"
            )
        guide._plates_agree = True


_TOKEN_KEY = "barycentric_guide_token"
